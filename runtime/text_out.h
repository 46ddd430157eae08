// TextOut: token bytes to text as it may be shown: whole characters, up to the first stop string.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "loader/tokenizer.h"
#include "runtime/stop.h"

namespace spillway {

class TextOut {
 public:
  // Appends to `text`; on_text may be empty. Both outlive this. Throws Error(usage) as StopStrings does.
  TextOut(const std::vector<std::string>& stops, const std::function<void(std::string_view)>& on_text,
          std::string& text)
      : stops_(stops), on_text_(on_text), text_(text) {}
  void push(std::string_view bytes) { emit(stops_.push(utf8_.push(bytes))); }
  void finish() {
    emit(stops_.push(utf8_.finish()));
    emit(stops_.finish());
  }
  bool stopped() const { return stops_.stopped(); }

 private:
  void emit(const std::string& text) {
    if (text.empty()) return;
    text_ += text;
    if (on_text_) on_text_(text);
  }
  Utf8Stream utf8_;
  StopStrings stops_;
  const std::function<void(std::string_view)>& on_text_;
  std::string& text_;
};

}  // namespace spillway
