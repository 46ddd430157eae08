#include "kernels/cuda_module.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <system_error>

namespace spillway {
namespace {

constexpr char kFileName[] = "spillway_cuda.so";

std::string why_not_opened() {
  const char* error = dlerror();
  return error != nullptr ? error : "unknown error";
}

}  // namespace

std::vector<std::string> CudaModule::candidates(const std::string& path) {
  if (!path.empty()) return {path};
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return {};
  const std::filesystem::path folder = program.parent_path();
  return {folder / kFileName, folder.parent_path() / "lib" / "spillway" / kFileName};
}

CudaModule::CudaModule(const std::string& path) {
  if (!open(path)) return;
  count_devices();
  if (!table_->profiled()) return;
  viewer_ = {.push = table_->push_range, .pop = table_->pop_range};
  Trace::show_ranges_to(&viewer_);
}

CudaModule::~CudaModule() {
  if (viewer_.push != nullptr) Trace::show_ranges_to(nullptr);
  if (handle_ != nullptr) dlclose(handle_);
}

bool CudaModule::open(const std::string& path) {
  const std::vector<std::string> files = candidates(path);
  for (const std::string& file : files) {
    std::error_code error;
    if (!std::filesystem::exists(file, error)) continue;
    handle_ = dlopen(std::filesystem::absolute(file).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ != nullptr) return find_table(file);
    report_ = fmt::format("no CUDA device: the CUDA module cannot be opened: {}", why_not_opened());
    return false;
  }
  report_ = fmt::format("no CUDA device: there is no CUDA module at {}", fmt::join(files, " or "));
  return false;
}

bool CudaModule::find_table(const std::string& file) {
  using TableFunction = const SpillwayCudaTable* (*)();
  const auto function = reinterpret_cast<TableFunction>(dlsym(handle_, kCudaTableSymbol));
  if (function == nullptr) {
    report_ = fmt::format("no CUDA device: {} is no CUDA module of Spillway", file);
    return false;
  }
  const SpillwayCudaTable* table = function();
  if (table->version != kCudaTableVersion || table->bytes != sizeof(SpillwayCudaTable)) {
    report_ = fmt::format("no CUDA device: {} is of version {} ({} bytes), this program needs version {} ({} bytes)",
                          file, table->version, table->bytes, kCudaTableVersion, sizeof(SpillwayCudaTable));
    return false;
  }
  table_ = table;
  return true;
}

void CudaModule::count_devices() {
  int32_t count = 0;
  if (const CudaProblem problem = table_->device_count(&count)) {
    report_ = fmt::format("no CUDA device: {}", problem);
    return;
  }
  std::vector<std::string> names;
  for (int32_t device = 0; device < count; device++) {
    CudaDeviceInfo info;
    if (const CudaProblem problem = table_->device_info(device, &info)) {
      report_ = fmt::format("no CUDA device: device {} cannot be asked: {}", device, problem);
      return;
    }
    names.push_back(fmt::format("cuda:{} {}, {:.1f} GiB, compute capability {}.{}", device, info.name,
                                static_cast<double>(info.total_bytes) / (uint64_t{1} << 30), info.major, info.minor));
  }
  devices_ = count;
  report_ = fmt::format("{}", fmt::join(names, "; "));
}

}  // namespace spillway
