#include <fmt/format.h>

#include "apps/describe/describe.h"

namespace spillway {
namespace {

// A group of flags that several commands share, in the order of their sections.
constexpr const char* kGroups[] = {"Running", "Budgets", "Selection of KV", "Sampling", "Reports"};

constexpr const char* kDescription = R"(.B spillway
runs a language model, or a context, that is larger than the GPU. Budgets say how much device memory, host memory and
disk it may take; it places weights and KV cache under them, moves what the next layer needs while the present one
computes, and says which link or unit is the limit. Where a byte lies never changes the answer. Without a GPU the CPU
is the device.
.PP
A model is a GGUF file (a split one by its first part) or a Hugging Face model directory, read in place. Without
.B \-m
it is the small one that the set-up fetched. The text goes to standard output, all else to standard error.
)";

constexpr const char* kRest = R"(.SH CHAT
On a terminal
.B spillway chat
reads lines with an editor and a history;
.I ~/.editrc
binds its keys. What was computed for earlier turns stays. Ctrl\-C stops an answer and keeps the turn; once more on the
empty line it leaves. A line that ends in a backslash goes on in the next.
.BR /help ", " /new ", " /system " TEXT, " /regenerate ", " /stats " and " /exit
are commands; their first letters suffice where no other has them. From a pipe or a file each line is a turn.
.SH AMOUNTS
Budgets are bytes with units (6GiB, 800MiB, 2GB) or a share (80%) of what is free. What cannot fit is refused before
anything is reserved.
.SH EXIT STATUS
.TP
.B 0
done
.TP
.B 2
a flag or an input is wrong
.TP
.B 3
the model is missing or malformed
.TP
.B 4
it does not fit the budgets
.TP
.B 5
a disk, a device, or standard output failed; or
.B doctor
found something broken
.TP
.B 130
interrupted
.SH ENVIRONMENT
Every flag has a twin, named at it; the flag wins. A boolean is negated by
.BR \-\-no\-x .
.B NO_COLOR
is honoured, as are
.BR XDG_CACHE_HOME " and " XDG_STATE_HOME .
.SH FILES
.TP
.I ~/.cache/spillway
the fetched model, and what was measured of this machine
.TP
.I ~/.local/state/spillway/history
lines typed in
.B chat
.SH EXAMPLES
.nf
spillway plan \-m model.gguf \-\-device\-mem 6GiB
spillway generate \-m model.gguf \-\-device\-mem 6GiB \-p "The river rose" \-n 64
spillway chat \-m model.gguf
spillway doctor
.fi
)";

// Text of a page: no backslash, dash or leading point with a meaning of its own.
std::string roff(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      out += c;
    }
  }
  return out.starts_with('.') || out.starts_with('\'') ? "\\&" + out : out;
}

std::string option_entry(const OptionText& option) {
  std::string names;
  for (const std::string& name : option.names) names += (names.empty() ? "\\fB" : ", \\fB") + roff(name) + "\\fR";
  if (!option.value.empty()) names += " \\fI" + roff(option.value) + "\\fR";
  std::string entry = ".TP\n" + names + "\n" + roff(option.text);
  if (!option.fallback.empty()) entry += roff(fmt::format(" (default: {})", option.fallback));
  if (!option.variable.empty()) entry += roff(fmt::format(" [{}]", option.variable));
  return entry + "\n";
}

const OptionText* find(const std::vector<OptionText>& options, const OptionText& wanted) {
  for (const OptionText& option : options) {
    if (option.names == wanted.names) return &option;
  }
  return nullptr;
}

}  // namespace

std::string man_page(const std::vector<CommandText>& commands, const std::string& version) {
  std::string page = fmt::format(
      ".TH SPILLWAY 1 \"\" \"{}\" \"User Commands\"\n.SH NAME\nspillway \\- run "
      "language models, and contexts, that do not fit the GPU\n.SH SYNOPSIS\n",
      roff(version));
  for (const CommandText& command : commands) {
    page += fmt::format(".B spillway {}\n[\\fIOPTIONS\\fR]{}\n.br\n", command.name,
                        command.argument.empty() ? ""
                        : command.words.empty()
                            ? " [\\fIMODEL\\fR]"
                            : fmt::format(" {}", roff(fmt::format("{}", fmt::join(command.words, "|")))));
    for (const ActionText& action : command.actions) {
      page += fmt::format(".B spillway {} {}\n\\fI{}\\fR\n.br\n", command.name, action.name,
                          roff(action.arguments.substr(1)));
    }
  }
  page += fmt::format(".SH DESCRIPTION\n{}.SH COMMANDS\n", kDescription);
  std::vector<OptionText> shared[std::size(kGroups)];
  for (const CommandText& command : commands) {
    page += fmt::format(".SS {}\n{}.\n", command.name, roff(command.text));
    std::string also;
    for (const OptionText& option : command.options) {
      if (option.group.empty()) page += option_entry(option);
    }
    for (const ActionText& action : command.actions) {
      page += fmt::format(".TP\n\\fB{} {}\\fI{}\\fR\n{}.\n", command.name, action.name, roff(action.arguments),
                          roff(action.text));
    }
    for (size_t g = 0; g < std::size(kGroups); ++g) {
      bool has = false;
      for (const OptionText& option : command.options) {
        if (option.group != kGroups[g]) continue;
        has = true;
        if (find(shared[g], option) == nullptr) shared[g].push_back(option);
      }
      if (has) also += fmt::format("{}\\fB{}\\fR", also.empty() ? "" : ", ", kGroups[g]);
    }
    if (!also.empty()) page += fmt::format(".PP\nIts further options: {} (below).\n", also);
  }
  for (size_t g = 0; g < std::size(kGroups); ++g) {
    page += fmt::format(".SH {}\n", kGroups[g]);
    for (const OptionText& option : shared[g]) page += option_entry(option);
  }
  return page + kRest;
}

}  // namespace spillway
