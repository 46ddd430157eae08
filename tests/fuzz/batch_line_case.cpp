#include "tests/fuzz/batch_line_case.h"

#include "apps/batch/line_file.h"
#include "apps/batch/request_line.h"
#include "apps/batch/result_line.h"
#include "kernels/check.h"
#include "loader/chat_template.h"
#include "tests/fuzz/memory_file.h"

namespace spillway {
namespace {

constexpr size_t kMostBytes = 2048;  // of a line

const ChatTemplate& chatml() {
  static const ChatTemplate kTemplate = [] {
    Checkpoint checkpoint;
    checkpoint.meta["tokenizer.ggml.model"] = std::string("gpt2");
    return ChatTemplate::parse(ChatTemplate::built_in("chatml"), "chatml", checkpoint);
  }();
  return kTemplate;
}

void render(const RequestLine& request) {
  try {
    chatml().render_json(request.variables);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::model && error.kind() != ErrorKind::usage) throw;
  }
}

}  // namespace

int try_batch_lines(std::span<const std::byte> bytes) {
  const MemoryFile memory(bytes);
  LineFile file("-i", memory.path(), kMostBytes);
  const Survey survey = file.survey();
  int requests = 0;
  for (Line line; file.next(line);) {
    SPILLWAY_CHECK(line.text.size() <= kMostBytes && (line.text.empty() == line.too_long));
    try {
      const RequestLine request = read_request_line(line.text);
      SPILLWAY_CHECK(!request.custom_id.empty() && custom_id_of(line.text) == request.custom_id);
      SPILLWAY_CHECK(request.sampling.temp >= 0 && request.max_tokens.value_or(1) > 0);
      if (request.chat) render(request);
      ++requests;
    } catch (const LineFault& fault) {
      const auto head = read_result_line(ResultLines::fault(survey.hash, line.number, fault));
      SPILLWAY_CHECK(head && head->failed && head->line == line.number && head->input_hash == survey.hash);
      SPILLWAY_CHECK(fault.custom_id.empty() || custom_id_of(line.text) == fault.custom_id);
    }
  }
  SPILLWAY_CHECK(file.so_far() == survey);
  return requests;
}

}  // namespace spillway
