#include "loader/gguf_types.h"

#include <fmt/format.h>

namespace spillway {
namespace {

struct GgmlType {
  uint32_t number;
  const char* name;
  std::optional<DType> dtype = {};
};

const GgmlType kTypes[] = {
    {0, "F32", DType::f32},
    {1, "F16", DType::f16},
    {30, "BF16", DType::bf16},
    {8, "Q8_0", DType::q8_0},
    {2, "Q4_0", DType::q4_0},
    {3, "Q4_1", DType::q4_1},
    {4, "Q4_2"},
    {5, "Q4_3"},
    {6, "Q5_0", DType::q5_0},
    {7, "Q5_1", DType::q5_1},
    {9, "Q8_1"},
    {10, "Q2_K", DType::q2_k},
    {11, "Q3_K", DType::q3_k},
    {12, "Q4_K", DType::q4_k},
    {13, "Q5_K", DType::q5_k},
    {14, "Q6_K", DType::q6_k},
    {15, "Q8_K"},
    {16, "IQ2_XXS"},
    {17, "IQ2_XS"},
    {18, "IQ3_XXS"},
    {19, "IQ1_S"},
    {20, "IQ4_NL", DType::iq4_nl},
    {21, "IQ3_S"},
    {22, "IQ2_S"},
    {23, "IQ4_XS", DType::iq4_xs},
    {24, "I8"},
    {25, "I16"},
    {26, "I32"},
    {27, "I64"},
    {28, "F64"},
    {29, "IQ1_M"},
    {31, "Q4_0_4_4"},
    {32, "Q4_0_4_8"},
    {33, "Q4_0_8_8"},
    {34, "TQ1_0"},
    {35, "TQ2_0"},
    {36, "IQ4_NL_4_4"},
    {37, "IQ4_NL_4_8"},
    {38, "IQ4_NL_8_8"},
    {39, "MXFP4"},
    {40, "NVFP4"},
    {41, "Q1_0"},
    {42, "Q2_0"},
};

}  // namespace

std::optional<DType> dtype_of_ggml(uint32_t number) {
  for (const GgmlType& type : kTypes) {
    if (type.number == number) return type.dtype;
  }
  return {};
}

std::string ggml_type_name(uint32_t number) {
  for (const GgmlType& type : kTypes) {
    if (type.number == number) return fmt::format("{} ({})", type.name, number);
  }
  return fmt::format("type {}", number);
}

std::string known_ggml_types() {
  std::string list;
  for (const GgmlType& type : kTypes) {
    if (type.dtype) list += (list.empty() ? "" : ", ") + std::string(type.name);
  }
  return list;
}

}  // namespace spillway
