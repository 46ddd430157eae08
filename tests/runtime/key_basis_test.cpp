// The directions of a KV head against what defines them, in double precision.
#include "runtime/key_basis.h"

#include <gtest/gtest.h>

#include <Eigen/SVD>
#include <cmath>
#include <random>

namespace spillway {
namespace {

Eigen::MatrixXd random_rows(int rows, int d, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  // Columns of very different sizes, mixed: what heads look like.
  Eigen::MatrixXd x(rows, d), mix(d, d);
  for (double& value : x.reshaped()) value = normal(random);
  for (double& value : mix.reshaped()) value = normal(random);
  for (int i = 0; i < d; ++i) x.col(i) *= std::pow(0.7, i);
  return x * mix;
}

struct Head {
  Eigen::MatrixXd q, k;  // rows; keys have a mean far from zero
  Eigen::RowVectorXd mean;
  KeyBasis basis;

  explicit Head(int d, uint64_t seed) : q(random_rows(90, d, seed)), k(random_rows(70, d, seed + 1)) {
    k.rowwise() += 5 * random_rows(1, d, seed + 2).row(0);
    mean = k.colwise().mean();
    basis = two_gram_basis(q.transpose() * q, centred().transpose() * centred());
  }
  Eigen::MatrixXd centred() const { return k.rowwise() - mean; }
  Eigen::MatrixXd scores() const { return q * centred().transpose(); }
  Eigen::MatrixXd estimate(int rank) const {
    return (q * basis.queries.leftCols(rank)) * (centred() * basis.keys.leftCols(rank)).transpose();
  }
};

TEST(KeyBasis, AllDirectionsGiveTheScoresButForTheMean) {
  for (const int d : {8, 24, 64}) {
    const Head head(d, 11 + d);
    const Eigen::MatrixXd exact = head.q * head.k.transpose();
    const Eigen::MatrixXd with_mean = head.estimate(d).colwise() + head.q * head.mean.transpose();
    EXPECT_LT((exact - with_mean).norm(), 1e-9 * exact.norm()) << d;
    EXPECT_LT((head.basis.queries * head.basis.keys.transpose() - Eigen::MatrixXd::Identity(d, d)).norm(), 1e-6) << d;
  }
}

// No estimate of that rank, from whatever it be made, is nearer to all scores (Eckart and Young).
TEST(KeyBasis, FirstDirectionsAreTheBestOfTheirRank) {
  const Head head(24, 3);
  const Eigen::JacobiSVD<Eigen::MatrixXd> svd(head.scores());
  for (const int rank : {1, 3, 6, 12, 20}) {
    const double best = svd.singularValues().tail(svd.singularValues().size() - rank).norm();
    const double got = (head.scores() - head.estimate(rank)).norm();
    EXPECT_GE(got, best * (1 - 1e-9));
    // The diagonal that is added costs a little.
    EXPECT_LE(got, best * (1 + 1e-3) + 1e-6 * head.scores().norm()) << rank;
  }
}

TEST(KeyBasis, ScoresOfAHeadThatIsAlwaysZeroAreZero) {
  const Eigen::MatrixXd zero = Eigen::MatrixXd::Zero(8, 8);
  const KeyBasis basis = two_gram_basis(zero, zero);
  EXPECT_TRUE(basis.queries.allFinite() && basis.keys.allFinite());
  EXPECT_LT((basis.queries * basis.keys.transpose() - Eigen::MatrixXd::Identity(8, 8)).norm(), 1e-12);
}

TEST(KeyBasis, PrincipalDirectionsAreSortedBySumsOfMagnitudes) {
  const Eigen::MatrixXd q = random_rows(200, 16, 9);
  const Eigen::MatrixXd directions = principal_directions(q.transpose() * q, q);
  EXPECT_LT((directions.transpose() * directions - Eigen::MatrixXd::Identity(16, 16)).norm(), 1e-10);
  const Eigen::MatrixXd gram = directions.transpose() * q.transpose() * q * directions;
  EXPECT_LT((gram - Eigen::MatrixXd(gram.diagonal().asDiagonal())).norm(), 1e-8 * gram.norm());
  const Eigen::RowVectorXd sums = (q * directions).cwiseAbs().colwise().sum();
  for (int i = 1; i < 16; ++i) EXPECT_GE(sums[i - 1], sums[i]) << i;
  EXPECT_GT(sums[0], 2 * sums[15]);
}

}  // namespace
}  // namespace spillway
