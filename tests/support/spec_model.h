// A model of which only the facts exist: shapes, types and extents in a file of holes. What a planner asks of a model.
#pragma once

#include <cstdint>
#include <random>
#include <string>

#include "kernels/device.h"
#include "runtime/planner.h"
#include "tests/support/tiny_model.h"

namespace spillway {

struct SpecModel {
  Checkpoint checkpoint;
  ModelSpec spec;

  // Lays the tensors out as write_model would, in a sparse file at `path`.
  SpecModel(const TinyModelOptions& options, const std::string& path);
  uint64_t weight_bytes() const { return spec_bytes_; }
  uint64_t kv_bytes(int positions) const;

 private:
  uint64_t spec_bytes_ = 0;
};

// Any shape a planner may meet, small ones often.
TinyModelOptions random_shape(std::mt19937_64& random);

// A device whose memory the host cannot address, as a GPU's: what a planner sees of one. Computes and reserves nothing.
class FarDevice final : public Device {
 public:
  explicit FarDevice(Device& near) : near_(near) {}
  DeviceKind kind() const override { return DeviceKind::cuda; }
  std::string name() const override { return "far device"; }
  int workers() const override { return 1; }
  uint64_t free_bytes() const override { return 0; }
  std::byte* reserve(uint64_t) override { return nullptr; }
  void release(std::byte*, uint64_t) override {}
  std::byte* reserve_host(uint64_t) override { return nullptr; }
  void release_host(std::byte*, uint64_t) override {}
  std::unique_ptr<Stream> make_compute_stream(const std::string&) override { return nullptr; }
  std::unique_ptr<Stream> make_copy_stream(const std::string&, double) override { return nullptr; }
  Ops& ops() override { return near_.ops(); }
  bool host_addressable() const override { return false; }

 private:
  Device& near_;
};

}  // namespace spillway
