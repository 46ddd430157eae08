// Ridge regression of what a layer's own query matrix gets wrong about a query, when it is applied to the input of an
// earlier layer (Hoerl and Kennard, Technometrics 12, 1970), from second moments alone.
#pragma once

#include <Eigen/Core>
#include <span>
#include <vector>

namespace spillway {

using RowMatrixXf = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Sums over rows of inputs x, of which `shift` (a rough mean) was taken, and of queries y.
struct QueryMoments {
  double rows = 0;
  Eigen::VectorXd x, y, yy;  // sums of x, of y, and of y^2
  RowMatrixXf xx, xy;        // x^T x [inputs x inputs], x^T y [inputs x outputs]

  QueryMoments(Eigen::Index inputs, Eigen::Index outputs);
  // Bytes that one holds.
  static uint64_t bytes(uint64_t inputs, uint64_t outputs) { return (inputs + outputs) * inputs * sizeof(float); }
  QueryMoments& operator+=(const QueryMoments& other);
};

// y = (x + shift) . weight + bias, nearly.
struct QueryMap {
  RowMatrixXf weight;  // [inputs x outputs]
  Eigen::VectorXf bias;
};

// The model's own matrix, which foretells y as (x + shift) . own; `usable`: whether an input can be corrected at all.
struct OwnQuery {
  const RowMatrixXf& own;  // [inputs x outputs]
  const Eigen::VectorXf& shift;
  const std::vector<bool>& usable;
};

// own + B, where B minimises the mean square of y - mean(y) - (x - mean(x)) . (own + B), plus `strength` times the sum
// of squares of B, inputs being scaled to variance 1. Inputs that are constant or not usable have no share in B.
QueryMap fit_query(const QueryMoments& moments, const OwnQuery& own, float strength);

// The mean square that is left, for each of `strengths` and last for B = 0, where each half foretells the other, as a
// share of the variance of y. Of a sample of the outputs.
std::vector<double> cross_validate(const QueryMoments& first, const QueryMoments& second, const OwnQuery& own,
                                   std::span<const float> strengths);

}  // namespace spillway
