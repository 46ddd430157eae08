// spillway completion: what a shell needs to complete the command line, or the man page.
#include "apps/commands.h"
#include "apps/describe/describe.h"
#include "apps/flags.h"
#include "apps/output.h"

namespace spillway {

Command add_completion(CLI::App& app) {
  auto form = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand(
      "completion", "Print the completion of a shell, or the man page: source <(spillway completion bash)");
  command->add_option("FORM", *form, "What is printed")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish", "man"}));
  return [form, &app] {
    const std::vector<CommandText> commands = describe(app);
    put(*form == "bash"   ? bash_completion(commands)
        : *form == "zsh"  ? zsh_completion(commands)
        : *form == "fish" ? fish_completion(commands)
                          : man_page(commands, app.version()));
    return 0;
  };
}

}  // namespace spillway
