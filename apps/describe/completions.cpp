#include <fmt/format.h>

#include <algorithm>

#include "apps/describe/describe.h"

namespace spillway {
namespace {

std::string joined(const std::vector<std::string>& words) { return fmt::format("{}", fmt::join(words, " ")); }

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

// Inside single quotes.
std::string quoted(const std::string& text) { return replaced(text, "'", "'\\''"); }

std::string names_of(const std::vector<CommandText>& commands) {
  std::string names;
  for (const CommandText& command : commands) names += (names.empty() ? "" : " ") + command.name;
  return names;
}

// What may stand right behind a command: its actions, or the words that it takes.
std::string first_words(const CommandText& command) {
  std::vector<std::string> words = command.words;
  for (const ActionText& action : command.actions) words.push_back(action.name);
  return joined(words);
}

}  // namespace

std::string bash_completion(const std::vector<CommandText>& commands) {
  std::string flags, choices;
  for (const CommandText& command : commands) {
    std::vector<std::string> names, numbers;
    for (const OptionText& option : command.options) {
      names.insert(names.end(), option.names.begin(), option.names.end());
      const bool nothing = !option.value.empty() && !option.file && option.choices.empty();
      if (nothing) numbers.insert(numbers.end(), option.names.begin(), option.names.end());
      if (option.choices.empty()) continue;
      // Of one name, commands may take different things.
      std::string pairs;
      for (const std::string& name : option.names) {
        pairs += fmt::format("{}\"{} {}\"", pairs.empty() ? "" : " | ", command.name, name);
      }
      choices +=
          fmt::format("    {})\n      mapfile -t COMPREPLY < <(compgen {}-W \"{}\" -- \"$cur\")\n      return ;;\n",
                      pairs, option.file ? "-f " : "", joined(option.choices));
    }
    flags += fmt::format(
        "    {})\n      flags=\"{}\"\n      plain=\"{}\"{} ;;\n", command.name, joined(names), joined(numbers),
        first_words(command).empty() ? "" : fmt::format("\n      actions=\"{}\"", first_words(command)));
  }
  return fmt::format(R"(# bash completion for spillway, made from its own flags
_spillway() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} flags plain actions
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    mapfile -t COMPREPLY < <(compgen -W "{} --help --version" -- "$cur")
    return
  fi
  case ${{COMP_WORDS[1]}} in
{}    *) return ;;
  esac
  case "${{COMP_WORDS[1]}} $prev" in
{}  esac
  [[ " $plain " == *" $prev "* ]] && return
  if [[ $cur == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$cur")
    return
  fi
  if ((COMP_CWORD == 2)) && [[ -n $actions ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$actions" -- "$cur")
    return
  fi
  compopt -o filenames 2>/dev/null
  mapfile -t COMPREPLY < <(compgen -f -- "$cur")
}}
complete -F _spillway spillway
)",
                     names_of(commands), flags, choices);
}

std::string zsh_completion(const std::vector<CommandText>& commands) {
  std::string list, cases;
  for (const CommandText& command : commands) {
    list += fmt::format("    '{}:{}'\n", command.name, quoted(command.text));
    cases += fmt::format("    {})\n      _arguments -S", command.name);
    for (const OptionText& option : command.options) {
      const std::string text = replaced(replaced(quoted(option.text), "[", "\\["), "]", "\\]");
      const std::string value =
          option.value.empty() ? ""
          : option.file && !option.choices.empty()
              ? fmt::format(":value:{{_alternative \"names:name:({})\" \"files:file:_files\"}}", joined(option.choices))
          : option.file            ? ":file:_files"
          : option.choices.empty() ? ":value:"
                                   : fmt::format(":value:({})", joined(option.choices));
      for (const std::string& name : option.names) cases += fmt::format(" \\\n        '{}[{}]{}'", name, text, value);
    }
    const std::string first = first_words(command);
    if (!first.empty()) cases += fmt::format(" \\\n        '1:action:({})'", first);
    const bool files = command.words.empty() && (!command.argument.empty() || !command.actions.empty());
    cases += fmt::format(" \\\n        '*:file:{}' ;;\n", files ? "_files" : "");
  }
  return fmt::format(R"(#compdef spillway
# zsh completion for spillway, made from its own flags
_spillway() {{
  local -a commands
  commands=(
{}  )
  if ((CURRENT == 2)); then
    _describe -t commands command commands
    _arguments -S '--help[Print help]' '--version[Print the version]'
    return
  fi
  local command=$words[2]
  shift words
  ((CURRENT--))
  case $command in
{}  esac
}}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _spillway "$@"
else
  compdef _spillway spillway
fi
)",
                     list, cases);
}

std::string fish_completion(const std::vector<CommandText>& commands) {
  std::string lines =
      "# fish completion for spillway, made from its own flags\n"
      "complete -c spillway -f\n"
      "complete -c spillway -n __fish_use_subcommand -l help -d 'Print help'\n"
      "complete -c spillway -n __fish_use_subcommand -l version -d 'Print the version'\n";
  const auto text_of = [](const std::string& text) { return replaced(replaced(text, "\\", "\\\\"), "'", "\\'"); };
  for (const CommandText& command : commands) {
    lines += fmt::format("complete -c spillway -n __fish_use_subcommand -a {} -d '{}'\n", command.name,
                         text_of(command.text));
    const std::string condition = fmt::format("-n '__fish_seen_subcommand_from {}'", command.name);
    if (!command.words.empty()) {
      lines += fmt::format("complete -c spillway {} -a '{}'\n", condition, joined(command.words));
    } else if (!command.argument.empty()) {
      lines += fmt::format("complete -c spillway {} -F\n", condition);
    }
    for (const ActionText& action : command.actions) {
      lines += fmt::format("complete -c spillway {} -F -a {} -d '{}'\n", condition, action.name, text_of(action.text));
    }
    for (const OptionText& option : command.options) {
      lines += "complete -c spillway " + condition;
      for (const std::string& name : option.names) {
        lines += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
      }
      if (!option.value.empty()) lines += option.file ? " -r -F" : " -x";
      if (!option.choices.empty()) lines += " -a '" + joined(option.choices) + "'";
      lines += fmt::format(" -d '{}'\n", text_of(option.text));
    }
  }
  return lines;
}

}  // namespace spillway
