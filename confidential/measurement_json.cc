// SPDX-License-Identifier: Apache-2.0
#include "cloister/confidential/measurement_json.h"

#include "absl/strings/str_cat.h"
#include "cloister/boot/launch_image.h"

namespace cloister::confidential {
namespace {

// All values are numbers, digits or the fixed names of piece types, so nothing
// here needs escaping.
std::string Hex(uint64_t value) {
  return absl::StrCat("\"0x", absl::Hex(value), "\"");
}

std::string StartState(const shim::Handover& inputs) {
  std::string ram;
  for (uint32_t i = 0; i < inputs.ram_count; ++i) {
    absl::StrAppend(&ram, i == 0 ? "" : ", ",
                    "{\"gpa\": ", Hex(inputs.ram[i].start),
                    ", \"size\": ", Hex(inputs.ram[i].size), "}");
  }
  return absl::StrCat(
      "    {\"type\": \"start state\", \"shim\": ", Hex(inputs.shim),
      ", \"entry\": ", Hex(inputs.entry),
      ", \"boot_params\": ", Hex(inputs.boot_params),
      ", \"vcpus\": ", inputs.vcpus,
      ", \"hypercalls\": ", inputs.hypercalls != 0 ? "true" : "false",
      ", \"platform\": \"", shim::DigestHex(inputs.platform), "\", \"ram\": [",
      ram, "]}");
}

std::string PieceEntry(const shim::HandoverPiece& piece) {
  absl::string_view name =
      boot::PieceTypeName(static_cast<boot::PieceType>(piece.type));
  return absl::StrCat("    {\"type\": \"", name,
                      "\", \"gpa\": ", Hex(piece.gpa),
                      ", \"length\": ", Hex(piece.length),
                      ", \"memory_size\": ", Hex(piece.memory_size),
                      ", \"digest\": \"", shim::DigestHex(piece.digest), "\"}");
}

}  // namespace

std::string MeasurementJson(const MeasurementReport& report) {
  std::string inputs = absl::StrCat(
      "    {\"type\": \"shim\", \"length\": ", Hex(report.shim_size),
      ", \"digest\": \"", shim::DigestHex(report.shim), "\"},\n",
      StartState(report.inputs));
  for (uint32_t i = 0; i < report.inputs.piece_count; ++i) {
    absl::StrAppend(&inputs, ",\n", PieceEntry(report.inputs.pieces[i]));
  }
  return absl::StrCat("{\n  \"digest\": \"", shim::DigestHex(report.digest),
                      "\",\n  \"format\": ", report.format,
                      ",\n  \"inputs\": [\n", inputs, "\n  ]\n}\n");
}

}  // namespace cloister::confidential
