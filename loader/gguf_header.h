// One GGUF file's header, before the parts of a split model are put together.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "loader/checkpoint.h"

namespace spillway {

struct ParsedTensor {
  TensorInfo info;         // its extent already absolute and inside the file
  uint64_t record_at = 0;  // where the header speaks of it
};

struct GgufHeader {
  std::map<std::string, MetaValue> meta;
  std::vector<ParsedTensor> tensors;  // in the order of the header
};

// Reads and checks the header of file number `index`. Memory: at most about twelve times the header's size on disk, and
// no header above 128 MiB is read.
GgufHeader read_gguf_header(const File& file, uint32_t index);

}  // namespace spillway
