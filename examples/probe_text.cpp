#include "probe_text.hpp"

#include <fmt/core.h>

#include <algorithm>

std::string joined(const std::vector<std::string>& words, std::string_view between) {
  return fmt::format("{}", fmt::join(words, between));
}

std::string coloured(std::string_view text, const fmt::text_style& colour, const Style& style) {
  return style.has_colours ? fmt::format(colour, "{}", text) : std::string(text);
}

void print_wrapped(std::string_view text, std::size_t column, std::size_t indent, const Style& style) {
  bool is_first = true;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, end);
    if (!is_first && column + 1 + word.size() > style.width) {
      fmt::print("\n{:{}}", "", indent);
      column = indent;
    } else if (!is_first) {
      fmt::print(" ");
      ++column;
    }
    fmt::print("{}", word);
    column += word.size();
    is_first = false;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  fmt::print("\n");
}

void print_heading(std::string_view text, const Style& style) { fmt::print("\n{}\n", coloured(text, heading, style)); }
