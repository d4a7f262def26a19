// SPDX-License-Identifier: Apache-2.0
//
// docs/cli.md has the options of --help and no others, and every exit code.
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "cloister/cli/exit_code.h"
#include "cloister/cli/options.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using ::testing::IsSupersetOf;

// Options, with the names of their values, by command: "ctl convert".
using Options = std::map<std::string, std::set<std::string>>;

constexpr char kEveryCommand[] = "every command";

std::vector<std::string> Document() {
  std::ifstream file("docs/cli.md");
  EXPECT_TRUE(file.good());
  std::ostringstream text;
  text << file.rdbuf();
  return absl::StrSplit(text.str(), '\n');
}

// What stands between the first pair of backquotes in `text` and, with `all`,
// the others.
std::vector<std::string> Quoted(absl::string_view text, bool all) {
  std::vector<std::string> found;
  const std::vector<std::string> parts = absl::StrSplit(text, '`');
  for (size_t i = 1; i < parts.size(); i += 2) {
    found.push_back(parts[i]);
    if (!all) break;
  }
  return found;
}

// The rows of the tables under headings "## Options of ...".
Options DocumentedOptions() {
  Options options;
  std::vector<std::string> commands;
  for (const std::string& line : Document()) {
    if (absl::StartsWith(line, "## ")) {
      commands.clear();
      if (absl::StartsWith(line, "## Options of every command")) {
        commands = {kEveryCommand};
      } else if (absl::StartsWith(line, "## Options of ")) {
        commands = Quoted(line, /*all=*/true);
      }
    }
    if (!absl::StartsWith(line, "| `--")) continue;
    EXPECT_FALSE(commands.empty()) << "no command has " << line;
    for (const std::string& command : commands) {
      EXPECT_TRUE(options[command].insert(Quoted(line, false).front()).second)
          << command << " has it twice: " << line;
    }
  }
  return options;
}

void Collect(const CommandHelp& command, const std::string& path,
             Options* options) {
  for (const OptionHelp& option : command.options) {
    for (const std::string& name : option.names) {
      if (!absl::StartsWith(name, "--")) continue;
      const bool everywhere = path.empty() || absl::StartsWith(name, "--help");
      // CLI11 adds what it checks: "STATE:{shared,private}".
      const std::string value(
          absl::string_view(option.value).substr(0, option.value.find(':')));
      (*options)[everywhere ? kEveryCommand : path].insert(
          value.empty() ? name : absl::StrCat(name, " ", value));
    }
  }
  for (const CommandHelp& inner : command.commands) {
    Collect(inner,
            path.empty() ? inner.name : absl::StrCat(path, " ", inner.name),
            options);
  }
}

TEST(CliDocsTest, TheTablesAreThoseOfHelp) {
  Options help;
  Collect(DescribeCommandLine(), "", &help);
  const Options documented = DocumentedOptions();
  for (const auto& [command, options] : help) {
    const auto found = documented.find(command);
    ASSERT_NE(found, documented.end()) << "no table for " << command;
    EXPECT_EQ(found->second, options) << command;
  }
  for (const auto& [command, options] : documented) {
    EXPECT_EQ(help.count(command), 1u) << command << " has no options";
  }
}

TEST(CliDocsTest, EveryCommandAndVerbIsNamed) {
  std::string text;
  for (const std::string& line : Document()) absl::StrAppend(&text, line, " ");
  for (const CommandHelp& command : DescribeCommandLine().commands) {
    EXPECT_TRUE(
        absl::StrContains(text, absl::StrCat("| `", command.name, "` |")))
        << command.name;
    for (const CommandHelp& verb : command.commands) {
      EXPECT_TRUE(absl::StrContains(text, absl::StrCat("`", verb.name, "`")) ||
                  absl::StrContains(text, absl::StrCat("`", verb.name, " ")))
          << command.name << " " << verb.name;
    }
  }
}

TEST(CliDocsTest, EveryExitCodeHasItsRow) {
  std::set<std::string> rows;
  for (const std::string& line : Document()) {
    const std::vector<std::string> cells = absl::StrSplit(line, " | ");
    absl::string_view first = cells.front();
    if (cells.size() == 2 && absl::ConsumePrefix(&first, "| ")) {
      rows.emplace(first);
    }
  }
  std::vector<std::string> codes = {absl::StrCat(kExitSignalBase, " + n")};
  for (int code :
       {kExitOk, kExitError, kExitUsage, kExitTripleFault, kExitInternalError,
        kExitNotVerified, kExitConversion, kExitSeccomp}) {
    codes.push_back(absl::StrCat(code));
  }
  EXPECT_THAT(rows, IsSupersetOf(codes));
}

}  // namespace
}  // namespace cloister::cli
