// What a pass begins with.
#include "kernels/check.h"
#include "runtime/pass.h"

namespace spillway {

// The tokens' embeddings, where these are the model's first layers, and the angles.
void Pass::load_inputs() {
  const TraceRange range(track_, "inputs");
  half_free_[half_].wait();
  std::byte* host = p_.host_inputs.data() + half_ * p_.workspace.host_half_bytes();
  copy_angles(host + p_.workspace.rope_offset());
  if (p_.spec.has_embedding()) embed(host);
  half_free_[half_] = p_.compute.record();
  half_ ^= 1;
}

// Embedding rows are read from the file as they are asked for, one for each token; the table itself is never resident.
void Pass::embed(std::byte* host) {
  const Workspace& w = p_.workspace;
  const int64_t rows = x_.rows;
  const auto rows_of = [&](const TensorInfo& table, int row, int64_t index, const View& into, std::byte* at) {
    SPILLWAY_CHECK(index < table.rows);
    p_.checkpoint.files[table.extent.file].read(table.extent.offset + index * into.stride,
                                                {at + row * into.stride, into.stride});
  };
  std::byte* positions = host + w.positions_offset();
  for (const Placed& one : parts_) {
    for (int i = 0; i < one.rows(); ++i) {
      const int row = one.first_row + i;
      rows_of(p_.spec.token_embedding, row, one.part.tokens[i], w.rows, host);
      if (w.positions.rows == 0) continue;
      rows_of(p_.spec.position_embedding, row, one.first_position + i + p_.spec.position_offset, w.positions,
              positions);
    }
  }
  p_.compute.copy_few(w.rows.data, host, rows * w.rows.stride);
  if (w.positions.rows > 0) p_.compute.copy_few(w.positions.data, positions, rows * w.positions.stride);
  p_.ops.dequantize(p_.compute, w.rows.slice_rows(0, rows), x_);
  if (p_.spec.embedding_scale != 1.0f) p_.ops.scale(p_.compute, x_, p_.spec.embedding_scale);
  if (w.positions.rows == 0) return;
  p_.ops.dequantize(p_.compute, w.positions.slice_rows(0, rows), h_);
  p_.ops.add(p_.compute, x_, h_);
}

// Cosines and sines of the pass's positions, one table for each way that layers rotate.
void Pass::copy_angles(std::byte* host) {
  const View& tables = p_.workspace.rope;
  for (size_t i = 0; i < rotations_.size(); ++i) {
    const View table = tables.slice_rows(tables.rows / static_cast<int64_t>(rotations_.size()) * i, x_.rows);
    std::byte* at = host + (table.data - tables.data);
    for (const Placed& one : parts_) {
      rotations_[i].fill(one.first_position, one.rows(), reinterpret_cast<float*>(at + one.first_row * table.stride));
    }
    p_.compute.copy_few(table.data, at, x_.rows * table.stride);
  }
}

uint64_t Pass::input_bytes_per_token() const {
  const Workspace& w = p_.workspace;
  return (p_.spec.has_embedding() ? w.rows.stride + w.positions.stride : w.x.stride) +
         w.rope.stride * rotations_.size();
}

}  // namespace spillway
