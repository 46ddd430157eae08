#include "runtime/vectors.h"

#include "kernels/blocks.h"
#include "memory/extent.h"

namespace spillway {
namespace {

constexpr uint64_t kAlign = 64;

struct LayerVector {
  TensorInfo LayerTensors::*tensor;
  View LayerVectors::*view;
  bool norm = false;  // a weight of a norm
};

constexpr LayerVector kLayerVectors[] = {
    {&LayerTensors::attn_norm, &LayerVectors::attn_norm, true},
    {&LayerTensors::attn_norm_bias, &LayerVectors::attn_norm_bias},
    {&LayerTensors::q_bias, &LayerVectors::q_bias},
    {&LayerTensors::k_bias, &LayerVectors::k_bias},
    {&LayerTensors::v_bias, &LayerVectors::v_bias},
    {&LayerTensors::q_norm, &LayerVectors::q_norm, true},
    {&LayerTensors::k_norm, &LayerVectors::k_norm, true},
    {&LayerTensors::attn_out_bias, &LayerVectors::attn_out_bias},
    {&LayerTensors::attn_post_norm, &LayerVectors::attn_post_norm, true},
    {&LayerTensors::ffn_norm, &LayerVectors::ffn_norm, true},
    {&LayerTensors::ffn_norm_bias, &LayerVectors::ffn_norm_bias},
    {&LayerTensors::gate_bias, &LayerVectors::gate_bias},
    {&LayerTensors::up_bias, &LayerVectors::up_bias},
    {&LayerTensors::down_bias, &LayerVectors::down_bias},
    {&LayerTensors::ffn_post_norm, &LayerVectors::ffn_post_norm, true},
};

// Calls visit(tensor, view, norm) for every vector the model has, in the order in which they lie.
template <typename Visit>
void for_each_vector(const ModelSpec& spec, ModelVectors& vectors, const Visit& visit) {
  vectors.layers.resize(spec.layers.size());
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    for (const LayerVector& one : kLayerVectors) {
      const TensorInfo& tensor = spec.layers[i].*one.tensor;
      if (tensor.cols > 0) visit(tensor, vectors.layers[i].*one.view, one.norm);
    }
  }
  if (spec.output_norm.cols > 0) visit(spec.output_norm, vectors.output_norm, true);
  if (spec.output_norm_bias.cols > 0) visit(spec.output_norm_bias, vectors.output_norm_bias, false);
}

uint64_t place_bytes(const TensorInfo& tensor) { return align_up(row_bytes(DType::f32, tensor.cols), kAlign); }

// `values` holds the tensor's own bytes at its end; they are widened from the front.
void widen(const TensorInfo& tensor, float offset, std::span<float> values) {
  const auto* halves = reinterpret_cast<const std::byte*>(values.data() + values.size()) - tensor.extent.bytes;
  for (int64_t i = 0; i < tensor.cols; ++i) {
    if (tensor.dtype != DType::f32) {
      uint16_t bits;
      std::memcpy(&bits, halves + 2 * i, sizeof bits);
      values[i] = tensor.dtype == DType::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
    }
    values[i] += offset;
  }
}

}  // namespace

uint64_t ModelVectors::bytes(const ModelSpec& spec) {
  ModelVectors vectors;
  uint64_t used = 0;
  for_each_vector(spec, vectors, [&](const TensorInfo& tensor, View&, bool) { used += place_bytes(tensor); });
  return used;
}

ModelVectors ModelVectors::cut(const ModelSpec& spec, std::byte* memory) {
  ModelVectors vectors;
  for_each_vector(spec, vectors, [&](const TensorInfo& tensor, View& view, bool) {
    view = View::dense(memory, DType::f32, 1, tensor.cols);
    memory += place_bytes(tensor);
  });
  return vectors;
}

void ModelVectors::read(const ModelSpec& spec, const Checkpoint& checkpoint, std::span<std::byte> memory) {
  ModelVectors vectors;
  std::byte* at = memory.data();
  for_each_vector(spec, vectors, [&](const TensorInfo& tensor, View&, bool norm) {
    const std::span<float> values{reinterpret_cast<float*>(at), static_cast<size_t>(tensor.cols)};
    const std::span<std::byte> stored = std::as_writable_bytes(values).last(tensor.extent.bytes);
    checkpoint.files[tensor.extent.file].read(tensor.extent.offset, stored);
    widen(tensor, norm ? spec.norm_offset : 0.0f, values);
    at += place_bytes(tensor);
  });
}

}  // namespace spillway
