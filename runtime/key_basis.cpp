#include "runtime/key_basis.h"

#include <Eigen/Cholesky>
#include <Eigen/Eigenvalues>
#include <Eigen/SVD>
#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/check.h"

namespace spillway {
namespace {

// R of R^T R = G, with what keeps it invertible; of a head that is always zero, the identity.
Eigen::MatrixXd cholesky(const Eigen::MatrixXd& gram) {
  constexpr double kDiagonal = 1e-6;
  const double mean = gram.trace() / static_cast<double>(gram.rows());
  if (!(mean > 0)) return Eigen::MatrixXd::Identity(gram.rows(), gram.cols());
  const Eigen::LLT<Eigen::MatrixXd> factors(gram +
                                            kDiagonal * mean * Eigen::MatrixXd::Identity(gram.rows(), gram.cols()));
  SPILLWAY_CHECK(factors.info() == Eigen::Success);
  return factors.matrixU();
}

}  // namespace

KeyBasis two_gram_basis(const Eigen::MatrixXd& queries_gram, const Eigen::MatrixXd& keys_gram) {
  const Eigen::MatrixXd queries = cholesky(queries_gram), keys = cholesky(keys_gram);
  // Square: no decomposition before it is needed. (BDCSVD takes four times as long to compile.)
  const Eigen::JacobiSVD<Eigen::MatrixXd, Eigen::NoQRPreconditioner> svd(queries * keys.transpose(),
                                                                         Eigen::ComputeFullU | Eigen::ComputeFullV);
  const Eigen::VectorXd root = svd.singularValues().cwiseSqrt();
  return {queries.triangularView<Eigen::Upper>().solve(svd.matrixU() * root.asDiagonal()),
          keys.triangularView<Eigen::Upper>().solve(svd.matrixV() * root.asDiagonal())};
}

Eigen::MatrixXd principal_directions(const Eigen::MatrixXd& queries_gram, const Eigen::MatrixXd& sample) {
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(queries_gram);
  SPILLWAY_CHECK(solver.info() == Eigen::Success);
  const Eigen::MatrixXd& vectors = solver.eigenvectors();
  const Eigen::VectorXd sums = (sample * vectors).cwiseAbs().colwise().sum();
  std::vector<Eigen::Index> order(static_cast<size_t>(vectors.cols()));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](Eigen::Index a, Eigen::Index b) { return sums[a] > sums[b]; });
  Eigen::MatrixXd sorted(vectors.rows(), vectors.cols());
  for (size_t i = 0; i < order.size(); ++i) sorted.col(static_cast<Eigen::Index>(i)) = vectors.col(order[i]);
  return sorted;
}

}  // namespace spillway
