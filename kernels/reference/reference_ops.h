// The specification of Ops: every sum in double, plain loops, no blocking, no threads.
#pragma once

#include <memory>

#include "kernels/ops.h"

namespace spillway {

std::unique_ptr<Ops> make_reference_ops();

}  // namespace spillway
