// Runs a program as a user does, and returns its output.
#pragma once

#include <array>
#include <cstdio>
#include <string>
#include <utility>

#include <sys/wait.h>

namespace dmaflow::test {

/// What a command prints, and its exit status.
inline std::pair<std::string, int> said_by(const std::string& command) {
  std::string said;
  std::FILE* const pipe = ::popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return {"popen failed", -1};
  std::array<char, 512> part{};
  while (std::fgets(part.data(), part.size(), pipe) != nullptr) said += part.data();
  const int status = ::pclose(pipe);
  return {said, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)};
}

}  // namespace dmaflow::test
