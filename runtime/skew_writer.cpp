#include "runtime/skew_writer.h"

#include "loader/gguf_writer.h"
#include "memory/extent.h"
#include "runtime/skew_file.h"

namespace spillway {
namespace {

constexpr uint64_t kAlignment = 32;  // of tensors: the format's default

}  // namespace

SkewWriter::SkewWriter(const std::string& path, const ModelSpec& spec, const Skew& facts,
                       const std::vector<std::vector<int>>& groups)
    : file_(path, 0600) {
  GgufWriter header;
  header.set("general.type", std::string(kSkewType));
  header.set("general.name", spec.name);
  header.set(kSkewVersion, static_cast<uint32_t>(kSkewFormat));
  header.set(kSkewFingerprint, facts.fingerprint);
  header.set(kSkewTextName, facts.text_name);
  header.set(kSkewTextHash, facts.text_hash);
  header.set(kSkewContext, static_cast<uint32_t>(facts.context));
  header.set(kSkewAhead, static_cast<uint32_t>(facts.ahead));
  header.set(kSkewGuess, std::string(kQueryGuessNames[static_cast<int>(facts.guess)]));
  for (const auto& group : groups) {
    for (const int layer : group) {
      const bool foretold = facts.guess == QueryGuess::ridge && facts.source(layer) != layer;
      for (const SkewTensor& tensor : skew_tensors(spec.shape, layer, foretold)) {
        header.add({.name = tensor.name, .dtype = tensor.dtype, .rows = tensor.rows, .cols = tensor.cols});
      }
    }
  }
  put(header.header(0));
}

void SkewWriter::add(const SolvedLayer& layer) {
  if (!layer.matrix.empty()) {
    put(layer.matrix);
    put(std::as_bytes(std::span(layer.bias)));
  }
  for (const auto* floats : {&layer.keys, &layer.queries, &layer.mean, &layer.principal}) {
    put(std::as_bytes(std::span(*floats)));
  }
}

void SkewWriter::put(std::span<const std::byte> bytes) {
  file_.write({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  file_.write(std::string(align_up(bytes.size(), kAlignment) - bytes.size(), '\0'));
}

}  // namespace spillway
