// Opens a GGUF model of one file or several. The format: ggml's docs/gguf.md.
#include <fmt/format.h>

#include <optional>

#include "loader/checkpoint.h"
#include "loader/gguf_header.h"
#include "loader/printable.h"

namespace spillway {
namespace {

[[noreturn]] void refuse(const std::string& path, const std::string& message) {
  throw Error(ErrorKind::model, fmt::format("{}: {}", path, message));
}

// NAME-00002-of-00005.gguf: NAME, 2, 5.
struct PartName {
  std::string prefix;
  int number = 0;
  int count = 0;

  std::string path_of(int part) const { return fmt::format("{}-{:05}-of-{:05}.gguf", prefix, part, count); }
};

std::optional<PartName> part_name(const std::string& path) {
  constexpr std::string_view kPattern = "-00000-of-00000.gguf";
  if (path.size() <= kPattern.size()) return {};
  const std::string tail = path.substr(path.size() - kPattern.size());
  for (size_t i = 0; i < tail.size(); ++i) {
    const bool digit = tail[i] >= '0' && tail[i] <= '9';
    if (kPattern[i] == '0' ? !digit : tail[i] != kPattern[i]) return {};
  }
  return PartName{path.substr(0, path.size() - kPattern.size()), std::stoi(tail.substr(1, 5)),
                  std::stoi(tail.substr(10, 5))};
}

// The value of one of the split.* keys; the fallback where the key is missing.
int64_t split_key(const GgufHeader& header, const std::string& path, const char* key, int64_t fallback) {
  const auto found = header.meta.find(key);
  if (found == header.meta.end()) return fallback;
  const int64_t* value = std::get_if<int64_t>(&found->second);
  if (!value || *value < 0 || *value > INT32_MAX) {
    refuse(path, fmt::format("{} is not a count", key));
  }
  return *value;
}

void add_tensors(Checkpoint& checkpoint, GgufHeader& header, const std::string& path) {
  for (ParsedTensor& tensor : header.tensors) {
    std::string name = tensor.info.name;
    const auto [at, inserted] = checkpoint.tensors.emplace(std::move(name), std::move(tensor.info));
    if (!inserted) {
      refuse(path, fmt::format("at byte {}: the tensor {} occurs twice", tensor.record_at, printable(at->first)));
    }
  }
}

// The name of the given first part, once it and the keys agree.
PartName first_part(const GgufHeader& header, const std::string& path, int64_t count) {
  const int64_t number = split_key(header, path, "split.no", -1);
  const std::optional<PartName> name = part_name(path);
  if (!name || name->count != count) {
    refuse(path,
           fmt::format("a part of a model split into {} files, which must be named NAME-00001-of-{:05}.gguf and so "
                       "on",
                       count, count));
  }
  if (number < 0 || number >= count) refuse(path, fmt::format("split.no is {} of split.count {}", number, count));
  if (number != name->number - 1) {
    refuse(path, fmt::format("its own header says it is part {} of {}: was it renamed?", number + 1, count));
  }
  if (number != 0) {
    refuse(path, fmt::format("part {} of {}: give the first part, {}", number + 1, count, name->path_of(1)));
  }
  return *name;
}

void open_parts(Checkpoint& checkpoint, const PartName& name, int64_t tensors_expected) {
  for (int part = 2; part <= name.count; ++part) {
    const std::string path = name.path_of(part);
    try {
      checkpoint.files.push_back(File::open_read(path));
    } catch (const Error& error) {
      throw Error(error.kind(), fmt::format("part {} of {} cannot be opened: {}", part, name.count, error.what()));
    }
    GgufHeader header = read_gguf_header(checkpoint.files.back(), static_cast<uint32_t>(part - 1));
    const int64_t number = split_key(header, path, "split.no", -1);
    const int64_t count = split_key(header, path, "split.count", -1);
    if (number != part - 1 || count != name.count) {
      refuse(path, fmt::format("its own header says part {} of {}, its name part {} of {}", number + 1, count, part,
                               name.count));
    }
    add_tensors(checkpoint, header, path);
  }
  if (tensors_expected >= 0 && checkpoint.tensors.size() != static_cast<uint64_t>(tensors_expected)) {
    refuse(checkpoint.path(), fmt::format("its {} parts hold {} tensors, split.tensors.count says {}", name.count,
                                          checkpoint.tensors.size(), tensors_expected));
  }
}

}  // namespace

Checkpoint open_gguf(const std::string& path) {
  Checkpoint checkpoint;
  checkpoint.files.push_back(File::open_read(path));
  GgufHeader header = read_gguf_header(checkpoint.files.front(), 0);
  const int64_t count = split_key(header, path, "split.count", 1);
  const int64_t tensors_expected = split_key(header, path, "split.tensors.count", -1);
  std::optional<PartName> name;
  if (count > 1) name = first_part(header, path, count);
  add_tensors(checkpoint, header, path);
  checkpoint.meta = std::move(header.meta);
  if (name) open_parts(checkpoint, *name, tensors_expected);
  return checkpoint;
}

}  // namespace spillway
