// Growth: what the steps of a tokenizer.json may make of texts, so that a file of a few bytes cannot take all memory or
// all time.
#pragma once

#include <cstddef>
#include <string>

namespace spillway {

// Steps of one part of a tokenizer.json (normalizer, pre-tokenizer, decoder) at most; the longest real one has ten.
inline constexpr size_t kMostSteps = 256;

class Growth {
 public:
  // For texts of so many bytes together.
  explicit Growth(size_t text_bytes);

  // Bytes that a step may make at most.
  size_t room() const;
  // That a step made so many. Error(model) beginning with `where` once there was no room for them.
  void made(size_t bytes, const std::string& where);
  // That so many of them are what the text became.
  void kept(size_t bytes) { kept_left_ -= bytes < kept_left_ ? bytes : kept_left_; }

 private:
  [[noreturn]] void refuse(const std::string& where) const;

  size_t text_bytes_;
  size_t made_left_, kept_left_;  // by all steps; in texts that stay
};

}  // namespace spillway
