// What does not fit is refused with the numbers and the nearest thing that would fit.
#pragma once

namespace spillway {

struct PlanInput;

// For an input that no plan holds: throws Error(fit), which names each budget that is too small, what it would have to
// be and of what that is made, and the nearest fits: the smallest budgets in whole MiB, or one of a shorter context, a
// smaller chunk, and a disk or a host budget where that alone suffices. Each of them fits this very input.
[[noreturn]] void refuse_to_plan(const PlanInput& input);

}  // namespace spillway
