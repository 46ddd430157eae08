#include "apps/describe/describe.h"

#include <algorithm>
#include <cctype>

namespace spillway {
namespace {

// What an option takes, as --help has it: "INT", "FILE", "FILE|chatml|gemma", "N|all|auto", "TEXT:{full,rehearsed}".
// Words in capitals stand for a value; the others are to be given as they are.
void read_value(const std::string& type, OptionText& text) {
  const size_t open = type.find(":{");
  text.value = type.substr(0, open);
  const bool braces = open != std::string::npos;
  const std::string list = braces ? type.substr(open + 2, type.rfind('}') - open - 2) : type;
  if (!braces && list.find('|') == std::string::npos) {
    text.file = list == "FILE" || list == "FOLDER";
    return;
  }
  for (const std::string& word : CLI::detail::split(list, braces ? ',' : '|')) {
    const bool stands = std::any_of(word.begin(), word.end(), [](unsigned char c) { return std::isupper(c) != 0; });
    if (!stands) text.choices.push_back(word);
    if (word == "FILE") text.file = true;
  }
}

OptionText text_of(const CLI::Option& option) {
  OptionText text;
  for (const std::string& name : option.get_snames()) text.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) text.names.push_back("--" + name);
  if (option.get_expected_min() > 0 && option.get_type_size() != 0) read_value(option.get_type_name(), text);
  text.text = option.get_description();
  if (option.get_group() != "Options") text.group = option.get_group();
  text.fallback = option.get_default_str();
  text.variable = option.get_envname();
  return text;
}

}  // namespace

std::vector<CommandText> describe(const CLI::App& app) {
  std::vector<CommandText> all;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    CommandText text{.name = command->get_name(), .text = command->get_description()};
    for (const CLI::Option* option : command->get_options()) {
      text.options.push_back(text_of(*option));
      if (!option->get_positional()) continue;
      text.argument = option->get_single_name();
      text.words = text.options.back().choices;
      if (text.options.back().names.empty()) text.options.pop_back();
    }
    for (const CLI::App* action : command->get_subcommands([](const CLI::App*) { return true; })) {
      ActionText of_action{.name = action->get_name(), .text = action->get_description()};
      for (const CLI::Option* option : action->get_options()) {
        if (option->get_positional()) of_action.arguments += " " + option->get_name(true);
      }
      text.actions.push_back(std::move(of_action));
    }
    all.push_back(std::move(text));
  }
  return all;
}

}  // namespace spillway
