#include "runtime/query_ridge.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>

#include "kernels/check.h"

namespace spillway {
namespace {

constexpr Eigen::Index kSampledOutputs = 128;

// Second moments about the means, of inputs scaled to variance 1: correlation [inputs x inputs] and what is left of y
// [inputs x outputs] once the model's own matrix has foretold it. A scale of 0 leaves an input out.
struct Standardised {
  Eigen::MatrixXf correlation;
  Eigen::MatrixXf residual;
  Eigen::VectorXf scale;  // 1 / standard deviation
};

Eigen::VectorXf scales(const QueryMoments& moments, const OwnQuery& own) {
  constexpr double kConstant = 1e-6;  // of the mean variance of all inputs
  const Eigen::VectorXd mean = moments.x / moments.rows;
  const Eigen::VectorXd variance = moments.xx.diagonal().cast<double>() / moments.rows - mean.cwiseProduct(mean).eval();
  const double least = std::max(kConstant * variance.mean(), 1e-30);
  Eigen::VectorXf scale(variance.size());
  for (Eigen::Index i = 0; i < variance.size(); ++i) {
    scale[i] = own.usable[i] && variance[i] > least ? static_cast<float>(1 / std::sqrt(variance[i])) : 0.0f;
  }
  return scale;
}

// Columns of the outputs, every step-th.
Eigen::MatrixXf columns(const RowMatrixXf& matrix, Eigen::Index step) {
  const Eigen::Index count = (matrix.cols() + step - 1) / step;
  Eigen::MatrixXf some(matrix.rows(), count);
  for (Eigen::Index i = 0; i < count; ++i) some.col(i) = matrix.col(i * step);
  return some;
}

Eigen::VectorXf sampled(const Eigen::VectorXd& all, Eigen::Index step) {
  const Eigen::Index count = (all.size() + step - 1) / step;
  Eigen::VectorXf some(count);
  for (Eigen::Index i = 0; i < count; ++i) some[i] = static_cast<float>(all[i * step]);
  return some;
}

Standardised standardise(const QueryMoments& moments, const OwnQuery& own, const Eigen::MatrixXf& own_columns,
                         Eigen::Index step) {
  const auto rows = static_cast<float>(moments.rows);
  const Eigen::VectorXf x = (moments.x / moments.rows).cast<float>();
  const Eigen::VectorXf y = sampled(moments.y / moments.rows, step);
  Standardised out;
  out.scale = scales(moments, own);
  Eigen::MatrixXf covariance = moments.xx / rows;
  covariance.noalias() -= x * x.transpose();
  out.residual = columns(moments.xy, step) / rows;
  out.residual.noalias() -= x * y.transpose();
  out.residual.noalias() -= covariance * own_columns;
  out.residual = out.scale.asDiagonal() * out.residual;
  out.correlation = out.scale.asDiagonal() * covariance * out.scale.asDiagonal();
  return out;
}

Eigen::MatrixXf solve(const Standardised& from, float strength) {
  Eigen::MatrixXf ridged = from.correlation;
  ridged.diagonal().array() += strength;
  const Eigen::LLT<Eigen::Ref<Eigen::MatrixXf>> factors(ridged);
  SPILLWAY_CHECK(factors.info() == Eigen::Success);
  return from.scale.asDiagonal() * factors.solve(from.residual);
}

// The mean square of y - mean_of(y) - (x - mean_of(x)) . weight over the rows of `on`, the means being those of `of`.
double left(const QueryMoments& on, const QueryMoments& of, const Eigen::MatrixXf& weight, Eigen::Index step) {
  const Eigen::VectorXf x = (on.x / on.rows).cast<float>(), x_of = (of.x / of.rows).cast<float>();
  const Eigen::VectorXf y = sampled(on.y / on.rows, step), y_of = sampled(of.y / of.rows, step);
  const Eigen::VectorXf yy = sampled(on.yy / on.rows, step);
  const auto rows = static_cast<float>(on.rows);
  const Eigen::MatrixXf xy = columns(on.xy, step) / rows - x * y_of.transpose() - x_of * (y - y_of).transpose();
  Eigen::MatrixXf product = (on.xx / rows) * weight;  // of the second moment about the means of `of`
  product.noalias() -= x * (x_of.transpose() * weight) + x_of * (x.transpose() * weight);
  product.noalias() += x_of * (x_of.transpose() * weight);
  const double variance = (yy - 2 * y.cwiseProduct(y_of) + y_of.cwiseProduct(y_of)).cast<double>().sum();
  return variance - 2 * weight.cwiseProduct(xy).cast<double>().sum() +
         weight.cwiseProduct(product).cast<double>().sum();
}

}  // namespace

QueryMoments::QueryMoments(Eigen::Index inputs, Eigen::Index outputs)
    : x(Eigen::VectorXd::Zero(inputs)),
      y(Eigen::VectorXd::Zero(outputs)),
      yy(Eigen::VectorXd::Zero(outputs)),
      xx(RowMatrixXf::Zero(inputs, inputs)),
      xy(RowMatrixXf::Zero(inputs, outputs)) {}

QueryMoments& QueryMoments::operator+=(const QueryMoments& other) {
  rows += other.rows;
  x += other.x;
  y += other.y;
  yy += other.yy;
  xx += other.xx;
  xy += other.xy;
  return *this;
}

QueryMap fit_query(const QueryMoments& moments, const OwnQuery& own, float strength) {
  QueryMap map;
  map.weight = own.own + solve(standardise(moments, own, own.own, 1), strength);
  const Eigen::VectorXf x = (moments.x / moments.rows).cast<float>() + own.shift;
  map.bias = (moments.y / moments.rows).cast<float>() - map.weight.transpose() * x;
  return map;
}

std::vector<double> cross_validate(const QueryMoments& first, const QueryMoments& second, const OwnQuery& own,
                                   std::span<const float> strengths) {
  const Eigen::Index step = std::max<Eigen::Index>(1, own.own.cols() / kSampledOutputs);
  const Eigen::MatrixXf own_columns = columns(own.own, step);
  std::vector<double> errors(strengths.size() + 1);
  const QueryMoments* halves[] = {&first, &second};
  double variance = 0;
  for (int half = 0; half < 2; ++half) {
    const QueryMoments &fitted = *halves[half], &other = *halves[1 - half];
    const Standardised from = standardise(fitted, own, own_columns, step);
    for (size_t i = 0; i < strengths.size(); ++i) {
      errors[i] += left(other, fitted, own_columns + solve(from, strengths[i]), step);
    }
    errors.back() += left(other, fitted, own_columns, step);
    variance += left(other, other, Eigen::MatrixXf::Zero(own_columns.rows(), own_columns.cols()), step);
  }
  for (double& error : errors) error /= std::max(variance, 1e-30);
  return errors;
}

}  // namespace spillway
