// One line of a batch's output, in the form of OpenAI's batch files: an answer, or why there is none.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "apps/batch/request_line.h"
#include "loader/tokenizer.h"
#include "runtime/batch.h"

namespace spillway {

// What of a request its answer repeats.
struct RequestHead {
  uint64_t line = 0;  // of the input, from 1
  std::string custom_id;
  std::string model;
  bool chat = false;
};

// What the answers of one job have in common. The id of a line is batch_req_INPUT-LINE: the fingerprint of the input in
// 16 hexadecimal digits, and the number of the line in it.
class ResultLines {
 public:
  // tokenizer: of the model, whose fingerprint is given; it outlives this.
  ResultLines(uint64_t input_hash, const Tokenizer& tokenizer, std::string model_fingerprint)
      : input_hash_(input_hash), tokenizer_(tokenizer), fingerprint_(std::move(model_fingerprint)) {}

  // `created`: seconds since 1970. Both without a line end.
  std::string answer(const RequestHead& head, const BatchAnswer& answer, int64_t created) const;
  static std::string fault(uint64_t input_hash, uint64_t line, const LineFault& fault);

 private:
  std::string id(uint64_t line) const;

  uint64_t input_hash_;
  const Tokenizer& tokenizer_;
  std::string fingerprint_;
};

// What a line that was written says of itself; none where it is none of ours, or not whole.
struct ResultHead {
  uint64_t input_hash = 0;
  uint64_t line = 0;
  bool failed = false;
};
std::optional<ResultHead> read_result_line(std::string_view text);

}  // namespace spillway
