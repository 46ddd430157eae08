#include "kernels/cpu/cpu_device.h"

#include <cstring>
#include <fstream>
#include <utility>

#include "kernels/cpu/cpu_stream.h"
#include "kernels/cpu/free_memory.h"
#include "kernels/cpu/host_block.h"

namespace spillway {
CpuDevice::CpuDevice(std::string name, std::unique_ptr<Team> team, std::unique_ptr<Ops> ops)
    : name_(std::move(name)), team_(std::move(team)), ops_(std::move(ops)) {}

uint64_t CpuDevice::free_bytes() const { return free_memory_bytes(); }

std::byte* CpuDevice::reserve(uint64_t bytes) { return map_host_block(bytes); }

void CpuDevice::release(std::byte* block, uint64_t bytes) { unmap_host_block(block, bytes); }

std::unique_ptr<Stream> CpuDevice::make_compute_stream(const std::string& name) {
  return std::make_unique<CpuStream>(name, team_.get());
}

std::unique_ptr<Stream> CpuDevice::make_copy_stream(const std::string& name, double bytes_per_second) {
  return std::make_unique<CpuStream>(name, nullptr, bytes_per_second);
}

std::string processor_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    const size_t start = line.find_first_not_of(" \t:", std::strlen("model name"));
    if (start != std::string::npos) return line.substr(start);
  }
  return "CPU";
}

}  // namespace spillway
