// LineReader: the messages a person types. On a terminal with line editing and a history that outlives the program;
// elsewhere each line of standard input is a message.
#pragma once

#include <memory>
#include <string>

namespace spillway {

enum class LineEnd : uint8_t {
  line,
  end,          // of the input: Ctrl-D on an empty line, or a file's end
  interrupted,  // Ctrl-C
};

class LineReader {
 public:
  virtual ~LineReader() = default;
  // A line without its end; a line that ends in \ goes on in the next. `line` is what was typed before an interrupt,
  // too.
  virtual LineEnd read(std::string& line) = 0;
  virtual bool terminal() const = 0;
  // What keeps the history from being kept, in one line; empty when it is.
  virtual std::string complaint() const { return {}; }
};

// An editor (libedit) where standard input is a terminal, with the history of `history_file`; else plain lines.
std::unique_ptr<LineReader> make_line_reader(const std::string& prompt, const std::string& history_file);

}  // namespace spillway
