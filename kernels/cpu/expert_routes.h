// A router's choice on the host: which experts a row goes to, and where its places lie.
#pragma once

#include "kernels/experts.h"

namespace spillway {

// The experts of row `row`, ascending, and their weights; logits [routes.experts].
void choose_experts(const float* logits, bool normalise, const ExpertRoutes& routes, int64_t row);
// Places, from the experts that all rows have chosen.
void deal_out(const ExpertRoutes& routes);

}  // namespace spillway
