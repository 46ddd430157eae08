// The header of a safetensors file: tensors as extents of the file itself. The format: eight bytes with the length of a
// JSON object, the object (name: {dtype, shape, data_offsets}), then the data.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "loader/checkpoint.h"

namespace spillway {

// Adds the file's tensors to `tensors`, under the names the file gives them; `index`: of the file in its checkpoint. A
// vector has one row; of more than two dimensions the last is the columns, the others together the rows. Tensors of
// integers and truth values (buffers of a framework) are passed over. Everything is checked against the file before it
// is believed; Error(model) names file and offset, and for a type that is not read the list of those that are.
// `unread`: of each tensor passed over what to say where it turns out to be a weight.
void read_safetensors(const File& file, uint32_t index, std::map<std::string, TensorInfo>& tensors,
                      std::map<std::string, std::string>* unread = nullptr);

}  // namespace spillway
