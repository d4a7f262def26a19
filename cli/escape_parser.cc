// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/escape_parser.h"

#include <optional>
#include <utility>

namespace cloister::cli {
namespace {

std::optional<EscapeParser::Action> ActionOf(uint8_t key) {
  switch (key) {
    case 'x':
    case 'X':
      return EscapeParser::Action::kQuit;
    case 'h':
    case 'H':
    case '?':
      return EscapeParser::Action::kHelp;
    case 'b':
    case 'B':
      return EscapeParser::Action::kBreak;
    default:
      return std::nullopt;
  }
}

}  // namespace

std::vector<EscapeParser::Step> EscapeParser::Feed(
    absl::Span<const uint8_t> input) {
  std::vector<Step> steps;
  Step step;
  for (uint8_t key : input) {
    if (!escaped_) {
      if (key == kEscape) {
        escaped_ = true;
      } else {
        step.bytes.push_back(key);
      }
      continue;
    }
    escaped_ = false;
    if (key == kEscape) {
      step.bytes.push_back(key);
    } else if (std::optional<Action> action = ActionOf(key)) {
      step.action = action;
      steps.push_back(std::exchange(step, Step()));
      if (action == Action::kQuit) return steps;
    }
  }
  if (!step.bytes.empty()) steps.push_back(std::move(step));
  return steps;
}

}  // namespace cloister::cli
