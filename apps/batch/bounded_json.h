// JSON of a stranger, read within bounds.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

namespace spillway {

// Keys keep their order, which a template that prints a tool shows. Throws LineFault: no JSON (or not UTF-8), nested
// too deeply, keys too many, or values so many and small that they would take far more memory than the text.
nlohmann::ordered_json parse_bounded_json(std::string_view text);

}  // namespace spillway
