#include "apps/template_flags.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <filesystem>

#include "apps/flags.h"
#include "kernels/check.h"

namespace spillway {
namespace {

std::string source_of(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::status(path, ignored).type() == std::filesystem::file_type::not_found) {
    throw Error(ErrorKind::usage, fmt::format("--template {}: neither a file nor one of {}", path,
                                              fmt::join(ChatTemplate::built_in_names(), ", ")));
  }
  return read_text_file("--template", path, ChatTemplate::kMostBytes);
}

}  // namespace

void TemplateFlags::add(CLI::App& command) {
  add_option(command, "--template", name, "Chat template: a file, or one by name (default: the model's own)")
      ->type_name(fmt::format("FILE|{}", fmt::join(ChatTemplate::built_in_names(), "|")));
}

ChatTemplate TemplateFlags::resolve(const Checkpoint& checkpoint) const {
  if (name.empty()) return ChatTemplate::from(checkpoint);
  const char* known = ChatTemplate::built_in(name);
  return ChatTemplate::parse(known ? known : source_of(name), "--template " + name, checkpoint);
}

std::string TemplateFlags::identity() const {
  if (name.empty() || ChatTemplate::built_in(name) != nullptr) return name;
  const std::string source = source_of(name);
  return fmt::format("a file of {} bytes, {:016x}", source.size(), XXH3_64bits(source.data(), source.size()));
}

}  // namespace spillway
