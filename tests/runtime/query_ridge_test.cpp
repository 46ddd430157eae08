// The correction of a foretold query against the closed form of ridge regression on the rows themselves, in double.
#include "runtime/query_ridge.h"

#include <gtest/gtest.h>

#include <Eigen/LU>
#include <random>

namespace spillway {
namespace {

constexpr int kInputs = 20, kOutputs = 6;

// Rows whose inputs are correlated, of very different sizes and means; one is constant, and one the caller may forbid.
struct Data {
  Eigen::MatrixXd x, y, own;
  Eigen::VectorXf shift;

  Data(int rows, double noise, uint64_t seed) : x(rows, kInputs), y(rows, kOutputs), own(kInputs, kOutputs) {
    std::mt19937_64 random(seed);
    std::normal_distribution<double> normal;
    const auto fill = [&](Eigen::MatrixXd& m) {
      for (double& value : m.reshaped()) value = normal(random);
    };
    Eigen::MatrixXd mix(kInputs, kInputs), truth(kInputs, kOutputs), spread(rows, kOutputs);
    for (Eigen::MatrixXd* m : {&x, &mix, &truth, &spread, &own}) fill(*m);
    x = x * (Eigen::MatrixXd::Identity(kInputs, kInputs) + 0.3 * mix);
    for (int i = 0; i < kInputs; ++i) x.col(i) = x.col(i) * (0.1 + i) + Eigen::VectorXd::Constant(rows, 3.0 * i - 20);
    x.col(4).setConstant(2.5);
    for (int i = 0; i < kInputs; ++i) truth.row(i) /= 0.1 + i;
    y = x * (own + truth) + noise * spread;
    y.rowwise() += Eigen::RowVectorXd::LinSpaced(kOutputs, -4, 9);
    shift = x.topRows(5).colwise().mean().transpose().cast<float>();
  }

  QueryMoments moments(int first, int rows) const {
    const Eigen::MatrixXd of = x.middleRows(first, rows).rowwise() - shift.cast<double>().transpose();
    const Eigen::MatrixXd out = y.middleRows(first, rows);
    QueryMoments moments(kInputs, kOutputs);
    moments.rows = rows;
    moments.x = of.colwise().sum();
    moments.y = out.colwise().sum();
    moments.yy = out.cwiseAbs2().colwise().sum();
    moments.xx = (of.transpose() * of).cast<float>();
    moments.xy = (of.transpose() * out).cast<float>();
    return moments;
  }
};

struct Closed {
  Eigen::MatrixXd weight;
  Eigen::RowVectorXd bias;
};

// From the rows: standardise, subtract what the own matrix gives, regress.
Closed closed_form(const Data& data, double strength, const std::vector<bool>& usable) {
  const auto rows = static_cast<double>(data.x.rows());
  const Eigen::RowVectorXd mean = data.x.colwise().mean();
  Eigen::MatrixXd z = data.x.rowwise() - mean;
  Eigen::VectorXd scale(kInputs);
  for (int i = 0; i < kInputs; ++i) {
    const double deviation = std::sqrt(z.col(i).squaredNorm() / rows);
    scale[i] = usable[i] && deviation > 1e-9 ? 1 / deviation : 0;
    z.col(i) *= scale[i];
  }
  Eigen::MatrixXd residual = data.y - data.x * data.own;
  residual = residual.rowwise() - Eigen::RowVectorXd(residual.colwise().mean());
  const Eigen::MatrixXd left = z.transpose() * z / rows + strength * Eigen::MatrixXd::Identity(kInputs, kInputs);
  Closed out;
  out.weight = data.own + scale.asDiagonal() * left.partialPivLu().solve(z.transpose() * residual / rows);
  out.bias = data.y.colwise().mean() - mean * out.weight;
  return out;
}

TEST(QueryRidge, IsTheClosedFormOnTheRows) {
  const Data data(400, 0.5, 1);
  std::vector<bool> usable(kInputs, true);
  usable[7] = false;
  const RowMatrixXf own = data.own.cast<float>();
  for (const float strength : {0.03f, 0.3f, 3.0f}) {
    const QueryMap map = fit_query(data.moments(0, 400), {own, data.shift, usable}, strength);
    const Closed closed = closed_form(data, strength, usable);
    const Eigen::MatrixXd expected = (data.x * closed.weight).rowwise() + closed.bias;
    const Eigen::MatrixXd got = (data.x * map.weight.cast<double>()).rowwise() + map.bias.cast<double>().transpose();
    EXPECT_LT((expected - got).norm(), 1e-4 * (expected.rowwise() - expected.colwise().mean()).norm()) << strength;
    for (const int left_out : {4, 7}) {
      EXPECT_EQ(map.weight.row(left_out), own.row(left_out)) << "a constant or forbidden input was corrected";
    }
  }
}

TEST(QueryRidge, HalvesAddUpToTheWhole) {
  const Data data(300, 0.5, 2);
  const RowMatrixXf own = data.own.cast<float>();
  const std::vector<bool> usable(kInputs, true);
  QueryMoments sum = data.moments(0, 100);
  sum += data.moments(100, 200);
  const QueryMap whole = fit_query(data.moments(0, 300), {own, data.shift, usable}, 0.1f);
  const QueryMap added = fit_query(sum, {own, data.shift, usable}, 0.1f);
  EXPECT_LT((whole.weight - added.weight).norm(), 1e-4f * whole.weight.norm());
}

// Errors are those of predicting each half's rows from the other half.
TEST(QueryRidge, CrossValidationPredictsTheOtherHalf) {
  const Data data(240, 2.0, 3);
  const RowMatrixXf own = data.own.cast<float>();
  const std::vector<bool> usable(kInputs, true);
  const float strengths[] = {0.01f, 0.3f, 10.0f};
  const std::vector<double> errors =
      cross_validate(data.moments(0, 120), data.moments(120, 120), {own, data.shift, usable}, strengths);
  ASSERT_EQ(errors.size(), 4u);
  for (size_t i = 0; i <= 3; ++i) {
    double left = 0, variance = 0;
    for (const int fitted : {0, 120}) {
      Data half = data;
      half.x = data.x.middleRows(fitted, 120).eval();
      half.y = data.y.middleRows(fitted, 120).eval();
      const Closed map = closed_form(half, i < 3 ? strengths[i] : 1e30, usable);
      const Eigen::MatrixXd x = data.x.middleRows(120 - fitted, 120), y = data.y.middleRows(120 - fitted, 120);
      left += (y - ((x * map.weight).rowwise() + map.bias)).squaredNorm();
      variance += (y.rowwise() - y.colwise().mean()).squaredNorm();
    }
    EXPECT_NEAR(errors[i], left / variance, 2e-3 * left / variance) << i;
  }
  EXPECT_LT(errors[0], errors[3]) << "a correction that is there was not found";
}

}  // namespace
}  // namespace spillway
