// What every reader of models promises: whatever a header says, no tensor reaches beyond its file.
#pragma once

#include <stdexcept>

#include "loader/model_spec.h"

namespace spillway {

inline void check_extent(const Checkpoint& checkpoint, const Extent& extent, const std::string& name) {
  if (extent.bytes == 0) return;  // a tensor that the model does not have
  const uint64_t end = extent.offset + extent.bytes;
  const bool inside =
      extent.file < checkpoint.files.size() && end > extent.offset && end <= checkpoint.files[extent.file].bytes();
  if (!inside) throw std::runtime_error("a tensor outside the file: " + name);
}

inline void check_extents(const Checkpoint& checkpoint) {
  for (const auto& [name, tensor] : checkpoint.tensors) check_extent(checkpoint, tensor.extent, name);
}

// Those too that are parts of a tensor.
inline void check_extents(const Checkpoint& checkpoint, const ModelSpec& spec) {
  for (const LayerTensors& layer : spec.layers) {
    for (const TensorInfo* tensor : {&layer.q, &layer.k, &layer.v, &layer.attn_out, &layer.gate, &layer.up, &layer.down,
                                     &layer.router, &layer.q_bias, &layer.q_norm}) {
      check_extent(checkpoint, tensor->extent, tensor->name);
    }
    for (const ExpertMatrix* experts : {&layer.expert_gate, &layer.expert_up, &layer.expert_down}) {
      for (const Extent& extent : experts->extents) check_extent(checkpoint, extent, "an expert");
    }
  }
}

}  // namespace spillway
