// Shared memory of an emulated block, with a record of who touched each word since the last barrier. Two threads at one
// word, one of them writing, with nothing between that orders them, are a fault: that is a missing __syncthreads or
// __syncwarp, found whatever order the threads happened to run in. So are a read of what nobody wrote, and an index
// past the end. Barriers order a block; a __syncwarp orders its lanes; shuffles and votes order nothing.
//
// An asynchronous copy (cp.async) lands when its thread waits for it; to touch its destination before is a fault too.
//
// A record keeps one writer, and readers by warp, for each 4-byte word: of threads that write different bytes of a word
// only the last is remembered, and for readers that met under partial masks the latest of them counts, which is
// stricter than CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

namespace spillway::emulation {

inline constexpr size_t kMostSharedBytes = 48 * 1024;  // what every GPU gives a block without being asked for more

// Who touches shared memory, and what that thread knows of its warp (Block::Thread::seen).
struct SharedAccess {
  uint32_t thread;
  uint32_t epoch;  // barriers passed
  const uint32_t* seen;
};

struct SharedArray {
  const char* name;
  const char* kernel;
  size_t offset;  // bytes into the block's shared memory
  size_t bytes;
};

class SharedMemory {
 public:
  SharedMemory();
  ~SharedMemory();

  // A new block: everything forgotten, filled with garbage.
  void reset(size_t dynamic_bytes);
  // The array declared at `site`: the same for every thread of the block.
  const SharedArray* fixed(const void* site, const char* name, const char* kernel, size_t bytes);
  const SharedArray* dynamic(size_t offset, size_t bytes);

  void read(const SharedArray& array, int64_t offset, void* value, size_t bytes, const SharedAccess& by);
  void write(const SharedArray& array, int64_t offset, const void* value, size_t bytes, const SharedAccess& by);
  // An asynchronous copy: from its start until it lands nobody may touch its destination, which holds garbage. Its
  // start and its landing count as writes of the thread that started it.
  void start_copy(const SharedArray& array, int64_t offset, size_t bytes, const SharedAccess& by);
  void land_copy(const SharedArray& array, int64_t offset, const void* value, size_t bytes, const SharedAccess& by);

 private:
  struct Word;
  void check_bounds(const SharedArray& array, int64_t offset, size_t bytes, const char* verb) const;
  void note_read(Word& word, uint8_t bytes, const SharedArray& array, size_t offset, const SharedAccess& by);
  void note_write(Word& word, uint8_t bytes, const SharedArray& array, size_t offset, const SharedAccess& by);

  [[noreturn]] void fault_under_way(const char* verb, const SharedArray& array, size_t offset) const;
  size_t first_fixed() const;

  std::vector<std::byte> bytes_;
  std::vector<Word> words_;
  std::map<const void*, SharedArray> fixed_;
  std::map<std::pair<size_t, size_t>, SharedArray> dynamic_;
  size_t fixed_bytes_ = 0;
  size_t dynamic_bytes_ = 0;  // as given at launch
};

// The accessor that stands for a pointer into shared memory.
template <typename T>
class Shared {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  class Element {
   public:
    Element(const SharedArray* array, int64_t index) : array_(array), index_(index) {}
    operator T() const;
    const Element& operator=(const T& value) const;
    const Element& operator=(const Element& other) const { return *this = static_cast<T>(other); }
    const Element& operator+=(const T& value) const { return *this = static_cast<T>(*this) + value; }

   private:
    const SharedArray* array_;
    int64_t index_;
  };

  explicit Shared(const SharedArray* array, int64_t first = 0) : array_(array), first_(first) {}
  Element operator[](int64_t index) const { return {array_, first_ + index}; }
  Shared operator+(int64_t count) const { return Shared(array_, first_ + count); }
  template <typename Wide>
  Wide read_wide(int64_t index) const;
  template <typename Wide>
  void write_wide(int64_t index, const Wide& value) const;
  const SharedArray& array() const { return *array_; }
  int64_t byte_of(int64_t index) const { return (first_ + index) * static_cast<int64_t>(sizeof(T)); }

 private:
  const SharedArray* array_;
  int64_t first_;
};

}  // namespace spillway::emulation
