// spillway inspect: what is in a model file. Reads headers alone, no weights.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/flags.h"
#include "apps/inspection.h"
#include "apps/output.h"

namespace spillway {
namespace {

struct InspectFlags {
  std::string model;
  bool json = false;
  int verbosity = 0;
};

}  // namespace

Command add_inspect(CLI::App& app) {
  auto flags = std::make_shared<InspectFlags>();
  CLI::App* command = app.add_subcommand("inspect", "Say what is in a model file; reads no weights");
  add_option(*command, "model,-m,--model", flags->model,
             "GGUF file, or Hugging Face model directory (default: the model the set-up fetched)")
      ->type_name("FILE");
  add_flag(*command, "--json", flags->json, "One JSON object on standard output, with every tensor");
  with_twin(command->add_flag("-v,--verbose", flags->verbosity, "Every tensor, and texts in full"));
  return [flags] {
    const Inspection inspection = inspect(model_path(flags->model));
    put(flags->json ? inspection_json(inspection) + "\n" : inspection_text(inspection, flags->verbosity > 0));
    return 0;
  };
}

}  // namespace spillway
