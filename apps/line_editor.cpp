// Over libedit, which knows a type Tokenizer of its own: no header of the loader may be included here.
#include "apps/line_editor.h"

#include <histedit.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace spillway {
namespace {

constexpr int kMostLines = 1000;  // of the history

class LineEditor : public LineReader {
 public:
  LineEditor(std::string prompt, std::string history_file)
      : prompt_(std::move(prompt)), continued_(prompt_.size() - 2, ' '), history_file_(std::move(history_file)) {
    continued_ += "| ";
    // Characters of several bytes: as the terminal's own locale has them, else as nearly all terminals do.
    std::setlocale(LC_CTYPE, "");
    if (MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
    // What is typed is no part of the answers: where those go to a file, the line is edited on standard error.
    FILE* const out = isatty(STDOUT_FILENO) == 1 ? stdout : stderr;
    edit_ = el_init("spillway", stdin, out, stderr);
    history_ = history_init();
    HistEvent event;
    history(history_, &event, H_SETSIZE, kMostLines);
    history(history_, &event, H_SETUNIQUE, 1);
    history(history_, &event, H_LOAD, history_file_.c_str());  // there may be none yet
    el_set(edit_, EL_CLIENTDATA, this);
    el_set(edit_, EL_PROMPT, &LineEditor::show_prompt);
    el_set(edit_, EL_EDITOR, "emacs");
    el_set(edit_, EL_HIST, history, history_);
    el_set(edit_, EL_SIGNAL, 1);  // the terminal is as it was, whatever signal ends or stops the program
    // Ctrl-C and Ctrl-Z are keys while a line is edited, so that neither comes between two states.
    el_set(edit_, EL_SETTY, "-d", "-isig", nullptr);
    // The wide ones: of narrow names it makes copies that it never frees.
    el_wset(edit_, EL_ADDFN, L"spillway-interrupt", L"End the line", &LineEditor::on_interrupt);
    el_wset(edit_, EL_ADDFN, L"spillway-suspend", L"Stop the program", &LineEditor::on_suspend);
    el_set(edit_, EL_BIND, "^R", "em-inc-search-prev", nullptr);
    el_source(edit_, nullptr);
    el_set(edit_, EL_BIND, "^C", "spillway-interrupt", nullptr);
    el_set(edit_, EL_BIND, "^Z", "spillway-suspend", nullptr);
  }
  ~LineEditor() override {
    history_end(history_);
    el_end(edit_);
  }
  LineEditor(const LineEditor&) = delete;

  LineEnd read(std::string& line) override {
    line.clear();
    goes_on_ = false;
    for (;;) {
      interrupted_ = false;
      int count = 0;
      el_set(edit_, EL_PREP_TERM, 1);  // before the prompt: what is typed when it shows is a key already
      const char* typed = el_gets(edit_, &count);
      if (interrupted_) {
        line += abandoned_;
        return LineEnd::interrupted;
      }
      if (typed == nullptr || count <= 0) {
        remember(line);
        return line.empty() ? LineEnd::end : LineEnd::line;
      }
      std::string part(typed, static_cast<size_t>(count));
      while (!part.empty() && (part.back() == '\n' || part.back() == '\r')) part.pop_back();
      line += part;
      if (part.empty() || part.back() != '\\') {
        remember(line);
        return LineEnd::line;
      }
      line.back() = '\n';
      goes_on_ = true;
    }
  }
  bool terminal() const override { return true; }
  std::string complaint() const override { return complaint_; }

 private:
  static LineEditor& of(EditLine* edit) {
    void* data = nullptr;
    el_get(edit, EL_CLIENTDATA, &data);
    return *static_cast<LineEditor*>(data);
  }
  static char* show_prompt(EditLine* edit) {
    LineEditor& self = of(edit);
    return (self.goes_on_ ? self.continued_ : self.prompt_).data();
  }
  static unsigned char on_interrupt(EditLine* edit, int) {
    LineEditor& self = of(edit);
    const LineInfo* typed = el_line(edit);
    self.abandoned_.assign(typed->buffer, typed->lastchar);
    self.interrupted_ = true;
    std::fputs("^C\n", isatty(STDOUT_FILENO) == 1 ? stdout : stderr);
    return CC_EOF;
  }
  static unsigned char on_suspend(EditLine*, int) {
    std::raise(SIGTSTP);
    return CC_REFRESH;
  }

  // One entry, of however many lines.
  void remember(const std::string& line) {
    if (line.find_first_not_of(" \t\n") == std::string::npos) return;
    HistEvent event;
    history(history_, &event, H_ENTER, line.c_str());
    save();
  }
  // Whole or not at all; two programs at once keep the last one's.
  void save() {
    if (history_file_.empty() || !complaint_.empty()) return;
    const std::string part = history_file_ + "." + std::to_string(getpid());
    HistEvent event;
    if (history(history_, &event, H_SAVE, part.c_str()) < 0 || std::rename(part.c_str(), history_file_.c_str()) != 0) {
      complaint_ = "the history cannot be kept: " + history_file_ + ": " + std::strerror(errno);
      unlink(part.c_str());
    }
  }

  std::string prompt_, continued_;
  const std::string history_file_;
  EditLine* edit_;
  History* history_;
  std::string complaint_, abandoned_;
  bool goes_on_ = false;
  bool interrupted_ = false;
};

}  // namespace

std::unique_ptr<LineReader> make_line_editor(const std::string& prompt, const std::string& history_file) {
  return std::make_unique<LineEditor>(prompt, history_file);
}

}  // namespace spillway
