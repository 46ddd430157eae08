// Memory of a page cache under test: heads of 16 elements, small pools.
#pragma once

#include <vector>

#include "memory/kv/cache.h"

namespace spillway {

inline ModelShape shape_of(int layers) {
  ModelShape shape;
  shape.layers = layers;
  shape.kv_heads = 2;
  shape.heads = 4;
  shape.head_dim = 16;
  return shape;
}

struct Memory {
  KvLayout layout;
  std::vector<std::byte> device, host;
  KvPools pools;

  Memory(int layers, uint32_t device_slots, uint32_t host_slots, uint32_t disk_slots, int per_layer)
      : Memory(KvLayout(shape_of(layers)), {device_slots, 0}, {host_slots, 0}, {disk_slots, 0}, per_layer) {}
  Memory(const KvLayout& layout_, const KvSlots& device_slots, const KvSlots& host_slots, const KvSlots& disk_slots,
         int per_layer)
      : layout(layout_), device(layout.bytes(device_slots)), host(layout.bytes(host_slots)) {
    pools = {device_slots, host_slots, disk_slots, per_layer, device.data(), host.data(), 0};
  }
};

// As a pass does.
inline void grow_all(KvCache& cache, SequenceId sequence, int count) {
  for (int layer = 0; layer < cache.layout().layers; ++layer) {
    cache.grow(sequence, layer, count);
    cache.pack(layer);
    for (const Demotion& demotion : cache.settle(layer)) cache.moved(demotion, {});
  }
  cache.advance(sequence, count);
}

}  // namespace spillway
