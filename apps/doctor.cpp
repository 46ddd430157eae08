// spillway doctor: what of this machine helps a run, and what hinders it.
#include "runtime/doctor.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/environment.h"
#include "apps/flags.h"
#include "apps/interrupt.h"
#include "apps/output.h"
#include "apps/progress.h"
#include "loader/checkpoint.h"

namespace spillway {
namespace {

struct DoctorFlags {
  std::string model;
  std::string disk_directory;
  CudaOptions cuda;
  bool json = false;
  bool no_color = false;
};

// The file that reads are measured on, with what is found of the model itself.
std::string examine_model(const DoctorFlags& flags, std::vector<Finding>& findings) {
  std::error_code ignored;
  if (flags.model.empty() &&
      std::filesystem::status(default_model(), ignored).type() == std::filesystem::file_type::not_found) {
    findings.push_back({"model", Health::ok, "none given (-m), and none fetched: no reads are measured"});
    return "";
  }
  try {
    const std::string path = model_path(flags.model);
    const Checkpoint checkpoint = open_model(path);
    findings.push_back({"model", Health::ok, path});
    return checkpoint.path();
  } catch (const Error& error) {
    findings.push_back({"model", Health::broken, error.what(), "spillway inspect says more; or fetch it again"});
    return "";
  }
}

// The first run makes the cache folder, where KV is spilled by default. An examination leaves nothing behind: it looks
// at the folder in which that would be made, which is on the same drive.
std::string spill_folder(const DoctorFlags& flags, std::vector<Finding>& findings) {
  if (!flags.disk_directory.empty()) return flags.disk_directory;
  const std::filesystem::path cache = cache_directory();
  std::filesystem::path there = cache;
  std::error_code ignored;
  while (std::filesystem::status(there, ignored).type() == std::filesystem::file_type::not_found &&
         there != there.parent_path()) {
    there = there.parent_path();
  }
  if (there != cache && std::filesystem::is_directory(there, ignored)) {
    findings.push_back({"spill folder", Health::ok,
                        fmt::format("{}: a run makes it; {} is looked at", cache.string(), there.string())});
  }
  return there.string();
}

std::vector<Finding> examine(const DoctorFlags& flags) {
  std::vector<Finding> all;
  const auto add = [&](std::vector<Finding> more) {
    all.insert(all.end(), more.begin(), more.end());
    stop_if_interrupted();
  };
  const std::unique_ptr<Device> cpu = make_cpu_device({});
  add(examine_host(*cpu));
  add(examine_gpu(flags.cuda));
  const std::string file = examine_model(flags, all);
  const std::string folder = spill_folder(flags, all);
  add(examine_drives(*cpu, file, folder));
  return all;
}

int count(const std::vector<Finding>& findings, Health health) {
  return static_cast<int>(
      std::count_if(findings.begin(), findings.end(), [&](const Finding& f) { return f.health == health; }));
}

std::string as_json(const std::vector<Finding>& findings) {
  nlohmann::json out{{"slow", count(findings, Health::slow)},
                     {"broken", count(findings, Health::broken)},
                     {"findings", nlohmann::json::array()}};
  for (const Finding& f : findings) {
    out["findings"].push_back(
        {{"name", f.name}, {"health", kHealthNames[static_cast<int>(f.health)]}, {"found", f.found}, {"mend", f.mend}});
  }
  return out.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string as_text(const std::vector<Finding>& findings, bool color) {
  static constexpr const char* kColors[] = {"\x1b[32m", "\x1b[33m", "\x1b[31m"};
  std::string text;
  for (const Finding& f : findings) {
    const int health = static_cast<int>(f.health);
    text += fmt::format("{}{:<7}{} {:<14} {}\n", color ? kColors[health] : "", kHealthNames[health],
                        color ? "\x1b[0m" : "", f.name, f.found);
    if (!f.mend.empty()) text += fmt::format("{:23}-> {}\n", "", f.mend);
  }
  const int slow = count(findings, Health::slow), broken = count(findings, Health::broken);
  if (slow + broken == 0) return text + "all is well\n";
  return text + fmt::format("{} slow, {} broken\n", slow, broken);
}

}  // namespace

Command add_doctor(CLI::App& app) {
  auto flags = std::make_shared<DoctorFlags>();
  CLI::App* command =
      app.add_subcommand("doctor", "Examine this machine: what helps a run, what hinders it, and how to mend it");
  add_option(*command, "-m,--model", flags->model,
             "Model whose drive is looked at (default: the one the set-up fetched)")
      ->type_name("FILE");
  add_option(*command, "--disk-dir", flags->disk_directory, "Folder of spilled KV (default: the cache folder)")
      ->type_name("FOLDER");
  add_option(*command, "--cuda-module", flags->cuda.module, "File of the CUDA module (default: where it is installed)")
      ->type_name("FILE");
  add_flag(*command, "--json", flags->json, "One JSON object on standard output");
  add_flag(*command, "--no-color", flags->no_color, "No colour (NO_COLOR is honoured too)");
  return [flags] {
    catch_interrupts();
    const std::vector<Finding> findings = examine(*flags);
    put(flags->json ? as_json(findings) : as_text(findings, colors_standard_output(flags->no_color)));
    return count(findings, Health::broken) > 0 ? static_cast<int>(ErrorKind::io) : 0;
  };
}

}  // namespace spillway
