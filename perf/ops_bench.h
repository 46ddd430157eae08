// What ops_perf measures with: a device, a pool that its operations read, and the machine's own limits.
#pragma once

#include <fmt/format.h>
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/team.h"

namespace spillway {

// Far more than the caches hold, so that every pass reads memory.
inline constexpr uint64_t kPoolBytes = uint64_t{768} << 20;
inline constexpr uint64_t kGpuPoolBytes = uint64_t{2} << 30;
// Of one timing: long beside the moment in which the host waits.
inline constexpr uint64_t kTimedBytes = 64 << 20;
inline constexpr uint64_t kGpuTimedBytes = uint64_t{1} << 30;
inline constexpr uint64_t kScratchBytes = 256 << 20;

inline double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

inline double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

__attribute__((target("avx2"))) inline uint64_t read_bytes(const std::byte* data, uint64_t bytes) {
  __m256i sums[4] = {};
  for (uint64_t i = 0; i + 128 <= bytes; i += 128) {
    for (int j = 0; j < 4; j++) {
      sums[j] = _mm256_xor_si256(sums[j], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + i + 32 * j)));
    }
  }
  const __m256i all = _mm256_xor_si256(_mm256_xor_si256(sums[0], sums[1]), _mm256_xor_si256(sums[2], sums[3]));
  return static_cast<uint64_t>(_mm256_extract_epi64(all, 0));
}

// Twelve chains of multiply-adds in registers, which the compiler may not see through: operations done.
__attribute__((target("avx2,fma"))) inline double fma_256(int64_t rounds) {
  __m256 a[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; i++) a[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 x = _mm256_set1_ps(0.5f);
  for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) {
      a[i] = _mm256_fmadd_ps(a[i], x, x);
      asm volatile("" : "+x"(a[i]));
    }
  }
  return static_cast<double>(rounds) * 12 * 8 * 2;
}

__attribute__((target("avx512f"))) inline double fma_512(int64_t rounds) {
  __m512 a[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; i++) a[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512 x = _mm512_set1_ps(0.5f);
  for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) {
      a[i] = _mm512_fmadd_ps(a[i], x, x);
      asm volatile("" : "+v"(a[i]));
    }
  }
  return static_cast<double>(rounds) * 12 * 16 * 2;
}

// AVX2 multiplies bytes to sums in 16 bits; adding those up comes on top.
__attribute__((target("avx2"))) inline double bytes_256(int64_t rounds) {
  __m256i a[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; i++) a[i] = _mm256_set1_epi8(static_cast<char>(i));
  const __m256i x = _mm256_set1_epi8(1);
  for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) {
      a[i] = _mm256_maddubs_epi16(a[i], x);
      asm volatile("" : "+x"(a[i]));
    }
  }
  return static_cast<double>(rounds) * 12 * 32 * 2;
}

__attribute__((target("avx512f,avx512vnni"))) inline double bytes_512(int64_t rounds) {
  __m512i a[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; i++) a[i] = _mm512_set1_epi32(i);
  const __m512i x = _mm512_set1_epi32(0x01010101);
  for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; i++) {
      a[i] = _mm512_dpbusd_epi32(a[i], x, x);
      asm volatile("" : "+v"(a[i]));
    }
  }
  return static_cast<double>(rounds) * 12 * 64 * 2;
}

struct Row {
  std::string name;
  std::string unit;
  double value;
  double limit;        // the same unit, measured in turns with it; 0: none
  uint64_t bytes = 0;  // of a matrix that decode reads
};

// Floats on the device.
class DeviceFloats {
 public:
  DeviceFloats(Device& device, Stream& stream, const std::vector<float>& values)
      : device_(device), bytes_(values.size() * sizeof(float)), data_(device.reserve(bytes_)) {
    std::byte* host = device.reserve_host(bytes_);
    std::memcpy(host, values.data(), bytes_);
    stream.copy(data_, host, bytes_);
    stream.synchronize();
    device.release_host(host, bytes_);
  }
  ~DeviceFloats() { device_.release(data_, bytes_); }
  DeviceFloats(const DeviceFloats&) = delete;
  View view(int64_t rows) const {
    return View::dense(data_, DType::f32, rows, static_cast<int64_t>(bytes_ / sizeof(float)) / rows);
  }

 private:
  Device& device_;
  uint64_t bytes_;
  std::byte* data_;
};

// A device with a pool of bytes far larger than the caches, and what a row is measured with.
class OpsBench {
 public:
  OpsBench(std::unique_ptr<Device> device, CpuIsa isa, int threads, double seconds)
      : isa_(isa),
        seconds_(seconds),
        team_(threads),
        device_(std::move(device)),
        gpu_(!device_->host_addressable()),
        pool_bytes_(gpu_ ? kGpuPoolBytes : kPoolBytes),
        stream_(device_->make_compute_stream("perf")),
        pool_(device_->reserve(pool_bytes_)),
        scratch_(device_->reserve(kScratchBytes)) {
    device_->ops().set_scratch(scratch_, kScratchBytes);
  }
  ~OpsBench() {
    stream_->synchronize();
    device_->ops().set_scratch(nullptr, 0);
    device_->release(scratch_, kScratchBytes);
    device_->release(pool_, pool_bytes_);
  }

  OpsBench(const OpsBench&) = delete;

  const std::vector<Row>& rows() const { return rows_; }

 protected:
  // Median of `work` (which does `amount` of the unit) and of the limit, run in turns.
  void measure(const std::string& name, const std::string& unit, double amount, const std::function<void()>& work,
               const std::function<double()>& limit) {
    std::vector<double> own;
    std::vector<double> limits;
    work();
    double spent = 0;
    while (spent < seconds_ || own.size() < 5) {
      const double seconds = seconds_of(work);
      own.push_back(amount / seconds / 1e9);
      spent += seconds;
      if (own.size() % 4 == 1 && limits.size() < 24) {
        // On a thread of its own, with a core of its own, as the device's stream has: this one is wherever it is.
        std::thread([&] {
          team_.bind_caller();
          limits.push_back(limit() / 1e9);
        }).join();
      }
    }
    rows_.push_back({name, unit, median(own), median(limits)});
    const Row& r = rows_.back();
    fmt::print("{:<34} {:8.2f} {:<8}", r.name, r.value, r.unit);
    if (r.limit > 0) fmt::print(" limit {:8.2f}  {:5.1f} %", r.limit, 100 * r.value / r.limit);
    fmt::print("\n");
    std::fflush(stdout);
  }

  double read_limit() {
    if (gpu_) {
      const uint64_t half = pool_bytes_ / 2;
      return 2.0 * static_cast<double>(half) / seconds_of([&] {
               stream_->copy(pool_ + half, pool_, half);
               stream_->synchronize();
             });
    }
    constexpr uint64_t kChunk = 1 << 20;
    constexpr int64_t kChunks = 96;
    const uint64_t start = (next_read_ += kChunk * kChunks) % (kPoolBytes - kChunk * kChunks);
    std::vector<uint64_t> sinks(kChunks);
    const double seconds = seconds_of([&] {
      team_.run(kChunks, [&](int64_t i, int) { sinks[i] = read_bytes(pool_ + start + i * kChunk, kChunk); });
    });
    return kChunks * kChunk / seconds;
  }

  double multiply_limit(bool quantised) {
    if (gpu_) return 0;
    const bool wide = isa_ == CpuIsa::avx512 || (isa_ == CpuIsa::best && widest_isa() == CpuIsa::avx512);
    const auto chains = quantised ? (wide ? bytes_512 : bytes_256) : (wide ? fma_512 : fma_256);
    std::vector<double> done(16 * team_.workers());
    const double seconds = seconds_of(
        [&] { team_.run(static_cast<int64_t>(done.size()), [&](int64_t i, int) { done[i] = chains(20000); }); });
    return std::accumulate(done.begin(), done.end(), 0.0) / seconds;
  }

  // The pattern over and over.
  void fill_pool(std::span<const std::byte> pattern) {
    std::byte* host = device_->reserve_host(pattern.size());
    std::memcpy(host, pattern.data(), pattern.size());
    for (uint64_t at = 0; at < pool_bytes_; at += pattern.size())
      stream_->copy(pool_ + at, host, std::min<uint64_t>(pattern.size(), pool_bytes_ - at));
    stream_->synchronize();
    device_->release_host(host, pattern.size());
  }

  std::vector<float> floats(int64_t count) {
    std::mt19937 random(11);
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& v : values) v = normal(random);
    return values;
  }

  DeviceFloats on_device(int64_t count) { return {*device_, *stream_, floats(count)}; }

  CpuIsa isa_;
  double seconds_;
  Team team_;
  std::unique_ptr<Device> device_;
  bool gpu_;
  uint64_t pool_bytes_;
  std::unique_ptr<Stream> stream_;
  std::byte* pool_;
  std::byte* scratch_;
  uint64_t next_read_ = 0;
  std::vector<Row> rows_;
};

}  // namespace spillway
