#include "loader/text/table_tokenizer.h"

#include "kernels/check.h"

namespace spillway {
namespace {

constexpr std::string_view kEnds[] = {"<|im_end|>",
                                      "<|eot_id|>",
                                      "<|eom_id|>",
                                      "<|end_of_text|>",
                                      "<|endoftext|>",
                                      "<|end|>",
                                      "<|EOT|>",
                                      "<EOT>",
                                      "<end_of_turn>",
                                      "<|end_of_turn|>",
                                      "<\uff5cend\u2581of\u2581sentence\uff5c>"};

}  // namespace

bool ends_a_turn(std::string_view text) {
  return std::find(std::begin(kEnds), std::end(kEnds), text) != std::end(kEnds);
}

void check_text_size(std::string_view text) {
  if (text.size() >= UINT32_MAX / 4)
    throw Error(ErrorKind::usage, "a text of 1 GiB or more cannot be tokenised in one piece");
}

}  // namespace spillway
