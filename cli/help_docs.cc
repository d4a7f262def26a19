// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/help_docs.h"

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "cloister/cli/exit_code.h"

namespace cloister::cli {
namespace {

// --- the manual page ---

// Text as roff takes it: its escapes, true hyphens, and no line that begins
// like a request.
std::string Roff(absl::string_view text) {
  std::string escaped =
      absl::StrReplaceAll(text, {{"\\", "\\e"}, {"-", "\\-"}, {"\n", " "}});
  if (absl::StartsWith(escaped, ".") || absl::StartsWith(escaped, "'")) {
    escaped.insert(0, "\\&");
  }
  return escaped;
}

void AppendOption(const OptionHelp& option, std::string* page) {
  std::vector<std::string> names;
  for (const std::string& name : option.names) {
    names.push_back(absl::StrCat("\\fB", Roff(name), "\\fR"));
  }
  absl::StrAppend(page, ".TP\n", absl::StrJoin(names, ", "));
  if (!option.value.empty()) {
    absl::StrAppend(page, names.empty() ? "" : " ", "\\fI", Roff(option.value),
                    "\\fR");
  }
  absl::StrAppend(page, "\n", Roff(option.text),
                  option.required ? " (required)" : "", "\n");
}

// A command, its options and its own commands, each named by its whole path.
void AppendCommand(const CommandHelp& command, const std::string& path,
                   std::string* page) {
  absl::StrAppend(page, ".SS ", Roff(path), "\n", Roff(command.text), ".\n");
  for (const OptionHelp& option : command.options) AppendOption(option, page);
  for (const CommandHelp& inner : command.commands) {
    AppendCommand(inner, absl::StrCat(path, " ", inner.name), page);
  }
}

struct ExitMeaning {
  int code;
  const char* meaning;
};
constexpr ExitMeaning kExitMeanings[] = {
    {kExitOk, "The guest powered off or rebooted, or the user left."},
    {kExitError, "Bad input, or the host refuses something."},
    {kExitUsage, "The command line is wrong."},
    {kExitTripleFault, "The guest crashed its CPU."},
    {kExitInternalError, "KVM or the monitor cannot go on."},
    {kExitNotVerified, "The launch shim refused what it was given."},
    {kExitConversion, "A denied or failed conversion ended the VM."},
    {kExitSeccomp, "A filter refused a system call."},
};

// --- the completion ---

bool TakesFiles(const OptionHelp& option) {
  for (const char* value : {"FILE", "PATH", "DIR"}) {
    if (absl::StrContains(option.value, value)) return true;
  }
  return false;
}

// Patterns "path:--option" of `case`, for options that take a value.
void CollectValues(const CommandHelp& command, const std::string& path,
                   bool files, std::vector<std::string>* patterns) {
  for (const OptionHelp& option : command.options) {
    if (option.value.empty() || TakesFiles(option) != files) continue;
    for (const std::string& name : option.names) {
      patterns->push_back(absl::StrCat("'", path, ":", name, "'"));
    }
  }
  for (const CommandHelp& inner : command.commands) {
    CollectValues(inner, absl::StrCat(path, "/", inner.name), files, patterns);
  }
}

// "path/word" moves on to the inner command.
void AppendSteps(const CommandHelp& command, const std::string& path,
                 std::string* script) {
  for (const CommandHelp& inner : command.commands) {
    const std::string next = absl::StrCat(path, "/", inner.name);
    absl::StrAppend(script, "      '", next, "') at='", next, "' ;;\n");
    AppendSteps(inner, next, script);
  }
}

void AppendWords(const CommandHelp& command, const std::string& path,
                 std::string* script) {
  std::vector<std::string> words;
  for (const CommandHelp& inner : command.commands) words.push_back(inner.name);
  for (const OptionHelp& option : command.options) {
    words.insert(words.end(), option.names.begin(), option.names.end());
  }
  absl::StrAppend(script, "    '", path, "') words='",
                  absl::StrJoin(words, " "), "' ;;\n");
  for (const CommandHelp& inner : command.commands) {
    AppendWords(inner, absl::StrCat(path, "/", inner.name), script);
  }
}

std::string Patterns(const CommandHelp& program, bool files) {
  std::vector<std::string> patterns;
  CollectValues(program, "", files, &patterns);
  // A pattern that nothing matches, where there is no such option.
  return patterns.empty() ? "''" : absl::StrJoin(patterns, " | ");
}

}  // namespace

std::string ManPage(const CommandHelp& program, absl::string_view version) {
  std::string page = absl::StrCat(
      ".\\\" Made from the tables of --help; do not edit.\n"
      ".TH CLOISTER 1 \"\" \"cloister ",
      version,
      "\" \"User Commands\"\n"
      ".SH NAME\ncloister \\- run confidential microVMs on /dev/kvm\n"
      ".SH SYNOPSIS\n.B cloister\n[\\fIOPTION\\fR]... \\fICOMMAND\\fR "
      "[\\fIOPTION\\fR]...\n"
      ".SH DESCRIPTION\n",
      Roff(program.text),
      "\nA guest's memory is private unless the guest shares it, as far as "
      "this host can enforce it: \\fBcloister doctor\\fR says how far.\n"
      ".SH OPTIONS\n");
  for (const OptionHelp& option : program.options) AppendOption(option, &page);
  page += ".SH COMMANDS\n";
  for (const CommandHelp& command : program.commands) {
    AppendCommand(command, command.name, &page);
  }
  page += ".SH EXIT STATUS\n";
  for (const ExitMeaning& each : kExitMeanings) {
    absl::StrAppend(&page, ".TP\n.B ", each.code, "\n", Roff(each.meaning),
                    "\n");
  }
  absl::StrAppend(&page, ".TP\n.B ", kExitSignalBase,
                  " + n\nSignal n ended it.\n"
                  ".SH FILES\n.TP\n.I /dev/kvm\nThe kernel's virtual machines; "
                  "the user needs to read and write it.\n"
                  ".SH SEE ALSO\n.BR systemd (1),\n.BR seccomp (2)\n");
  return page;
}

std::string BashCompletion(const CommandHelp& program) {
  std::string script =
      "# bash completion for cloister. Made from the tables of --help; do not "
      "edit.\n"
      "_cloister() {\n"
      "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
      "  local at='' words='' i\n"
      "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
      "    case \"$at/${COMP_WORDS[i]}\" in\n";
  AppendSteps(program, "", &script);
  absl::StrAppend(&script,
                  "    esac\n  done\n"
                  "  COMPREPLY=()\n"
                  "  case \"$at:$prev\" in\n    ",
                  Patterns(program, /*files=*/true),
                  ")\n"
                  "      compopt -o filenames 2>/dev/null\n"
                  "      mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
                  "      return ;;\n    ",
                  Patterns(program, /*files=*/false),
                  ") return ;;\n  esac\n  case \"$at\" in\n");
  AppendWords(program, "", &script);
  script +=
      "  esac\n"
      "  mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
      "}\n"
      "complete -F _cloister cloister\n";
  return script;
}

}  // namespace cloister::cli
