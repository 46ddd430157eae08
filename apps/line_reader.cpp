#include "apps/line_reader.h"

#include <unistd.h>

#include <iostream>

#include "apps/interrupt.h"
#include "apps/line_editor.h"

namespace spillway {
namespace {

class PlainLines : public LineReader {
 public:
  LineEnd read(std::string& line) override {
    const InterruptsEnd while_waiting;
    line.clear();
    for (std::string part; std::getline(std::cin, part);) {
      if (!part.empty() && part.back() == '\r') part.pop_back();
      if (part.empty() || part.back() != '\\') {
        line += part;
        return LineEnd::line;
      }
      part.back() = '\n';
      line += part;
    }
    return line.empty() ? LineEnd::end : LineEnd::line;
  }
  bool terminal() const override { return false; }
};

}  // namespace

std::unique_ptr<LineReader> make_line_reader(const std::string& prompt, const std::string& history_file) {
  if (isatty(STDIN_FILENO) == 1) return make_line_editor(prompt, history_file);
  return std::make_unique<PlainLines>();
}

}  // namespace spillway
