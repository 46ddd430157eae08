// What a device has free, asked without a context of our own: so that what the context takes can be measured.
#pragma once

#include <cstdint>

namespace spillway::cuda {

// False where nobody can say. The emulation has one of its own.
bool free_without_context(int device, uint64_t* bytes);

}  // namespace spillway::cuda
