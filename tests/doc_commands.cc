// SPDX-License-Identifier: Apache-2.0
#include "cloister/tests/doc_commands.h"

#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace cloister::tests {
namespace {

// Whether a shell would go on reading: inside of single quotes, or after a
// backslash at the end.
bool Continues(absl::string_view command) {
  bool quoted = false;
  for (char c : command) quoted ^= c == '\'';
  return quoted || absl::EndsWith(command, "\\");
}

}  // namespace

std::vector<std::string> SplitCommands(absl::string_view block) {
  std::vector<std::string> commands;
  bool open = false;
  for (absl::string_view line : absl::StrSplit(block, '\n')) {
    if (open) {
      absl::StrAppend(&commands.back(), "\n", line);
    } else if (!line.empty()) {
      commands.emplace_back(line);
    } else {
      continue;
    }
    open = Continues(commands.back());
  }
  return commands;
}

absl::StatusOr<std::vector<std::string>> DocCommands(
    const std::string& page, absl::string_view heading) {
  std::ifstream file(page);
  std::stringstream content;
  content << file.rdbuf();
  const std::string text = absl::StrCat("\n", content.str());
  const size_t at = text.find(absl::StrCat("\n", heading, "\n"));
  const size_t begin =
      at == std::string::npos ? at : text.find("\n```\n", at + 1);
  const size_t end =
      begin == std::string::npos ? begin : text.find("\n```\n", begin + 5);
  if (end == std::string::npos) {
    return absl::NotFoundError(
        absl::StrCat(page, ": no commands below \"", heading, "\""));
  }
  return SplitCommands(
      absl::string_view(text).substr(begin + 5, end - begin - 5));
}

absl::StatusOr<std::vector<std::string>> DocBlocks(const std::string& page,
                                                   absl::string_view heading) {
  std::ifstream file(page);
  std::vector<std::string> blocks;
  bool is_below = false, is_open = false;
  for (std::string line; std::getline(file, line);) {
    if (absl::StartsWith(line, "```")) {
      is_open = !is_open;
      if (is_open && is_below) blocks.emplace_back();
    } else if (is_open) {
      if (is_below) absl::StrAppend(&blocks.back(), line, "\n");
    } else if (absl::StartsWith(line, "#")) {
      is_below = line == heading;
    }
  }
  if (blocks.empty() || is_open) {
    return absl::NotFoundError(
        absl::StrCat(page, ": no blocks below \"", heading, "\""));
  }
  return blocks;
}

}  // namespace cloister::tests
