// CpuDevice: the CPU as a device. Its memory is the host's; its streams are CpuStreams.
#pragma once

#include <memory>
#include <string>

#include "kernels/cpu/team.h"
#include "kernels/device.h"
#include "kernels/ops.h"

namespace spillway {

class CpuDevice final : public Device {
 public:
  // team: null where the operations need no workers beside their stream's.
  CpuDevice(std::string name, std::unique_ptr<Team> team, std::unique_ptr<Ops> ops);

  DeviceKind kind() const override { return DeviceKind::cpu; }
  std::string name() const override { return name_; }
  int workers() const override { return team_ ? team_->workers() : 1; }
  uint64_t free_bytes() const override;
  std::byte* reserve(uint64_t bytes) override;
  void release(std::byte* block, uint64_t bytes) override;
  std::byte* reserve_host(uint64_t bytes) override { return reserve(bytes); }
  void release_host(std::byte* block, uint64_t bytes) override { release(block, bytes); }
  std::unique_ptr<Stream> make_compute_stream(const std::string& name) override;
  std::unique_ptr<Stream> make_copy_stream(const std::string& name, double bytes_per_second) override;
  Ops& ops() override { return *ops_; }
  bool host_addressable() const override { return true; }

 private:
  std::string name_;
  std::unique_ptr<Team> team_;
  std::unique_ptr<Ops> ops_;
};

// The processor's name as /proc/cpuinfo has it, "CPU" where it has none.
std::string processor_name();

}  // namespace spillway
