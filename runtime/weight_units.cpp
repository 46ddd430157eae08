#include "runtime/weight_units.h"

#include <algorithm>
#include <numeric>

namespace spillway {
namespace {

constexpr int64_t kRowBlock = 16;  // kernels work on blocks of that many rows

uint64_t bytes_of(const TensorInfo& tensor, int64_t rows) { return row_bytes(tensor.dtype, tensor.cols) * rows; }

struct SliceExtent {
  WeightSlice slice;
  Extent extent;
};

// Lays the slices' extents out as few aligned runs, neighbours in the file sharing one.
void lay_out(WeightUnit& unit, std::vector<SliceExtent> slices, const Checkpoint& checkpoint) {
  std::vector<size_t> order(slices.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const Extent &x = slices[a].extent, &y = slices[b].extent;
    return x.file != y.file ? x.file < y.file : x.offset < y.offset;
  });
  for (size_t index : order) {
    const Extent& extent = slices[index].extent;
    const uint64_t begin = align_down(extent.offset, kDiskAlign);
    const uint64_t end = align_up(extent.offset + extent.bytes, kDiskAlign);
    WeightRun* last = unit.runs.empty() ? nullptr : &unit.runs.back();
    if (last == nullptr || last->extent.file != extent.file || begin > last->extent.offset + last->extent.bytes) {
      unit.runs.push_back({.extent = {extent.file, begin, end - begin}, .offset = unit.bytes, .needed = 0});
      last = &unit.runs.back();
    } else {
      last->extent.bytes = std::max(last->extent.bytes, end - last->extent.offset);
    }
    unit.bytes = last->offset + last->extent.bytes;
    const uint64_t file_end = std::min(last->extent.offset + last->extent.bytes, checkpoint.files[extent.file].bytes());
    last->needed = file_end - last->extent.offset;
    slices[index].slice.offset = last->offset + (extent.offset - last->extent.offset);
    unit.weight_bytes += extent.bytes;
  }
  for (const SliceExtent& s : slices) unit.slices.push_back(s.slice);
}

void cut_stage(std::vector<WeightUnit>& units, Stage stage, int layer, const std::vector<const TensorInfo*>& matrices,
               const Checkpoint& checkpoint, uint64_t unit_bytes) {
  uint64_t total = 0;
  int64_t least_blocks = INT64_MAX;
  for (const TensorInfo* matrix : matrices) {
    total += bytes_of(*matrix, matrix->rows);
    least_blocks = std::min(least_blocks, (matrix->rows + kRowBlock - 1) / kRowBlock);
  }
  const int64_t count = std::clamp<int64_t>((total + unit_bytes - 1) / unit_bytes, 1, least_blocks);
  for (int64_t i = 0; i < count; ++i) {
    WeightUnit unit{.stage = stage, .layer = layer, .slices = {}, .runs = {}};
    std::vector<SliceExtent> slices;
    for (size_t m = 0; m < matrices.size(); ++m) {
      const TensorInfo& matrix = *matrices[m];
      const int64_t blocks = (matrix.rows + kRowBlock - 1) / kRowBlock;
      const int64_t first = blocks * i / count * kRowBlock;
      const int64_t last = std::min(matrix.rows, blocks * (i + 1) / count * kRowBlock);
      const WeightSlice slice{static_cast<int>(m), matrix.dtype, first, last - first, matrix.cols, 0};
      slices.push_back(
          {slice,
           {matrix.extent.file, matrix.extent.offset + bytes_of(matrix, first), bytes_of(matrix, last - first)}});
    }
    lay_out(unit, std::move(slices), checkpoint);
    units.push_back(std::move(unit));
  }
}

WeightUnit expert_unit(const LayerTensors& layer, int number, int expert, const Checkpoint& checkpoint) {
  WeightUnit unit{.stage = Stage::experts, .layer = number, .expert = expert, .slices = {}, .runs = {}};
  std::vector<SliceExtent> slices;
  for (const ExpertMatrix* matrix : {&layer.expert_gate, &layer.expert_up, &layer.expert_down}) {
    const WeightSlice slice{static_cast<int>(slices.size()), matrix->dtype, 0, matrix->rows, matrix->cols, 0};
    slices.push_back({slice, matrix->extents[static_cast<size_t>(expert)]});
  }
  lay_out(unit, std::move(slices), checkpoint);
  return unit;
}

}  // namespace

std::vector<WeightUnit> cut_expert_units(const ModelSpec& spec, const Checkpoint& checkpoint) {
  std::vector<WeightUnit> units;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    if (!spec.layers[i].has_experts()) continue;
    for (int expert = 0; expert < spec.shape.experts; ++expert) {
      units.push_back(expert_unit(spec.layers[i], static_cast<int>(i), expert, checkpoint));
    }
  }
  return units;
}

std::vector<WeightUnit> cut_weight_units(const ModelSpec& spec, const Checkpoint& checkpoint, uint64_t unit_bytes) {
  std::vector<WeightUnit> units;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const LayerTensors& layer = spec.layers[i];
    const int number = static_cast<int>(i);
    cut_stage(units, Stage::qkv, number, {&layer.q, &layer.k, &layer.v}, checkpoint, unit_bytes);
    cut_stage(units, Stage::attn_out, number, {&layer.attn_out}, checkpoint, unit_bytes);
    if (layer.has_experts()) {
      cut_stage(units, Stage::router, number, {&layer.router}, checkpoint, unit_bytes);
      continue;
    }
    std::vector<const TensorInfo*> gate_up{&layer.gate};
    if (layer.up.cols > 0) gate_up.push_back(&layer.up);
    cut_stage(units, Stage::gate_up, number, gate_up, checkpoint, unit_bytes);
    cut_stage(units, Stage::down, number, {&layer.down}, checkpoint, unit_bytes);
  }
  if (spec.has_head()) cut_stage(units, Stage::head, 0, {&spec.output}, checkpoint, unit_bytes);
  return units;
}

}  // namespace spillway
