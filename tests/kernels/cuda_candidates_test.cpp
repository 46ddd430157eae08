// The choice of the likeliest tokens, run by the emulation, against the reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/kernels/cuda_emulated.h"
#include "tests/support/logit_rows.h"

namespace spillway {
namespace {

class CudaCandidatesTest : public CudaEmulated {
 protected:
  void compare(LogitRow kind, int64_t rows, int64_t cols, int k, const std::vector<int32_t>& penalised = {}) {
    SCOPED_TRACE(testing::Message() << "row " << static_cast<int>(kind) << ", " << cols << " logits, k " << k);
    DeviceMatrix logits = matrix(DType::f32, rows, cols, {.offset = 4, .gap = 8});
    DeviceMatrix out = matrix(DType::f32, rows, candidate_floats(k)),
                 wanted = matrix(DType::f32, rows, candidate_floats(k));
    for (int64_t r = 0; r < rows; r++) {
      fill_logits(kind, static_cast<uint64_t>(cols + r), cols, logits.host().f32(r));
    }
    logits.upload(stream_);
    expect_fine(table_.synchronize(stream_));
    const CandidateChoice choice{.k = k, .penalised = penalised, .penalty = 1.3f};
    reference_->ops().candidates(*reference_stream_, logits.host(), choice, wanted.host());
    reference_stream_->synchronize();
    const DeviceList<int32_t> ids(table_, stream_, penalised);
    choose(logits, k, out, ids.device(), static_cast<int32_t>(penalised.size()));
    for (int64_t r = 0; r < rows; r++) {
      expect_same_candidates(out.host().f32(r), wanted.host().f32(r), k);
      if (HasFatalFailure()) return;
    }
  }

  void choose(const DeviceMatrix& logits, int k, DeviceMatrix& out, const int32_t* ids = nullptr, int32_t count = 0) {
    const CudaCandidates arguments = {.logits = logits.device(),
                                      .out = out.device(),
                                      .penalised = ids,
                                      .penalised_count = count,
                                      .penalty = 1.3f,
                                      .k = k};
    expect_fine(table_.candidates(stream_, &arguments));
    out.download(stream_);
  }
};

TEST_F(CudaCandidatesTest, MatchTheReference) {
  for (const int64_t cols : {1, 2, 700, 1024, 1025, 5000}) {
    for (const int k : {1, 40}) {
      if (k <= cols) compare(LogitRow::random, 1, cols, k);
    }
  }
  compare(LogitRow::random, 3, 3000, 8);
  compare(LogitRow::random, 1, 1500, kMostCandidates);
  compare(LogitRow::random, 0, 100, 1);
}

// Equals keep their order, and rows where far more than k reach the first floor end too.
TEST_F(CudaCandidatesTest, HardRows) {
  for (const LogitRow kind : kLogitRows) {
    for (const int k : {1, 40}) compare(kind, 1, 5000, k);
  }
  compare(LogitRow::equal, 1, 9000, kMostCandidates);
  compare(LogitRow::rising, 1, 9000, 3);
}

TEST_F(CudaCandidatesTest, PenaltyComesFirst) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < 3000; id += 2) ids.push_back(id);
  compare(LogitRow::random, 2, 3000, 20, ids);
  compare(LogitRow::random, 1, 50, 50, {49, 3});
}

TEST_F(CudaCandidatesTest, TheSumTellsOfBrokenRows) {
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    DeviceMatrix logits = matrix(DType::f32, 1, 2000), out = matrix(DType::f32, 1, candidate_floats(2));
    logits.fill(1);
    logits.host().f32()[1234] = value;
    logits.upload(stream_);
    choose(logits, 2, out);
    EXPECT_TRUE(std::isnan(out.at(0, 4)));
  }
  DeviceMatrix logits = matrix(DType::f32, 1, 100), out = matrix(DType::f32, 1, candidate_floats(1));
  std::fill_n(logits.host().f32(), 100, -std::numeric_limits<float>::infinity());
  logits.upload(stream_);
  choose(logits, 1, out);
  EXPECT_TRUE(std::isnan(out.at(0, 2)));
}

}  // namespace
}  // namespace spillway
