#include "apps/describe/describe.h"

#include <algorithm>
#include <map>

#include "loader/chat_template.h"

namespace spillway {
namespace {

const std::map<std::string, std::vector<std::string>>& known_choices() {
  static const std::map<std::string, std::vector<std::string>> kChoices{
      {"--device", {"auto", "cuda", "cpu", "reference"}},
      {"--isa", {"auto", "scalar", "avx2", "avx512"}},
      {"--output", {"md", "json"}},
      {"--template", ChatTemplate::built_in_names()}};
  return kChoices;
}

// Of those that take a text, the ones that are files or folders.
bool is_file(const std::string& name) {
  static const std::vector<std::string> kFiles{"--model",    "--file",   "--template",    "--logits", "--trace",
                                               "--disk-dir", "--tokens", "--cuda-module", "--input",  "--output"};
  return std::find(kFiles.begin(), kFiles.end(), name) != kFiles.end();
}

OptionText text_of(const CLI::Option& option) {
  OptionText text;
  for (const std::string& name : option.get_snames()) text.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) {
    text.names.push_back("--" + name);
    const auto known = known_choices().find(text.names.back());
    if (known != known_choices().end()) text.choices = known->second;
    text.file = text.file || is_file(text.names.back());
  }
  if (option.get_expected_min() > 0 && option.get_type_size() != 0) text.value = option.get_type_name();
  if (const size_t colon = text.value.find(':'); colon != std::string::npos) text.value.resize(colon);
  text.text = option.get_description();
  if (option.get_group() != "Options") text.group = option.get_group();
  text.fallback = option.get_default_str();
  text.variable = option.get_envname();
  // Of bench it is a form, of others a file.
  if (option.check_lname("output")) text.file = text.fallback.empty();
  if (option.check_lname("output") && text.file) text.choices.clear();
  return text;
}

}  // namespace

std::vector<CommandText> describe(const CLI::App& app) {
  std::vector<CommandText> all;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    CommandText text{.name = command->get_name(), .text = command->get_description()};
    for (const CLI::Option* option : command->get_options()) {
      text.options.push_back(text_of(*option));
      if (option->get_positional()) text.argument = option->get_single_name();
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
