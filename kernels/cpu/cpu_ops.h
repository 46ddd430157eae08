// The CPU's Ops: quantised blocks are computed on directly, activations are quantised to int8 by blocks of 32.
#pragma once

#include <memory>

#include "kernels/backend.h"
#include "kernels/cpu/team.h"

namespace spillway {

std::unique_ptr<Ops> make_cpu_ops(Team& team, CpuIsa isa);
// The widest instruction set that this machine runs and the kernels know.
CpuIsa widest_isa();

}  // namespace spillway
