// The numbers GGUF gives to element types (ggml's) and to metadata values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kernels/view.h"

namespace spillway {

enum class GgufValueType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, text, array, u64, i64, f64 };

// Our type for ggml's number; none where it is not read.
std::optional<DType> dtype_of_ggml(uint32_t number);
// "Q4_K (12)", or "type 77" for a number ggml has not given out.
std::string ggml_type_name(uint32_t number);
// "F32, F16, ..." as messages list them.
std::string known_ggml_types();

}  // namespace spillway
