// Directions that carry the scores of a KV head: of both Gram matrices, and InfiniGen's (arXiv 2406.19707,
// section 4.2). Double precision throughout.
#pragma once

#include <Eigen/Core>

namespace spillway {

// Directions are columns, the ones that matter most first.
struct KeyBasis {
  Eigen::MatrixXd queries, keys;  // [d x d]
};

// For Gram matrices G_q = sum of q^T q and G_k = sum of (k - m)^T (k - m) over rows of queries and centred keys: the
// first r columns make (q . P_q) . ((k - m) . P_k) the best rank-r estimate of q . (k - m) in the mean square over
// those queries and keys; all of them make it exact. P_q = R_q^-1 U S^1/2 and P_k = R_k^-1 V S^1/2, where R^T R = G
// (Cholesky) and U S V^T = R_q R_k^T (Eckart and Young, Psychometrika 1, 1936). A diagonal of 1e-6 of its mean is added
// to G.
KeyBasis two_gram_basis(const Eigen::MatrixXd& queries_gram, const Eigen::MatrixXd& keys_gram);

// Eigenvectors of G_q as columns, in the order of their sums of |q . direction| over `sample` [rows x d].
Eigen::MatrixXd principal_directions(const Eigen::MatrixXd& queries_gram, const Eigen::MatrixXd& sample);

}  // namespace spillway
