// The matrix as a table with numbered reasons.
#include "probe_print.hpp"
#include "probe_text.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <utility>

using namespace dmaflow;

namespace {

/// The notes that the table's cells refer to: each text once, in the order of its first use, with all devices that gave
/// it.
class Footnotes {
 public:
  std::size_t number_of(const std::string& text, const std::string& device = {}) {
    auto found = std::ranges::find(notes_, text, &Note::text);
    if (found == notes_.end()) found = notes_.insert(found, Note{text, {}});
    auto& devices = found->devices;
    if (!device.empty() && std::ranges::find(devices, device) == devices.end()) devices.push_back(device);
    return static_cast<std::size_t>(found - notes_.begin()) + 1;
  }
  [[nodiscard]] std::vector<std::string> texts() const {
    std::vector<std::string> result;
    for (const Note& note : notes_) {
      result.push_back(note.devices.empty() ? note.text : joined(note.devices, ", ") + ": " + note.text);
    }
    return result;
  }

 private:
  struct Note {
    std::string text;
    std::vector<std::string> devices;
  };
  std::vector<Note> notes_;
};

struct Notes {
  Footnotes reasons;  // numbers
  Footnotes remarks;  // letters
};

/// "card0" of "/dev/dri/card0 (virtio_gpu) Virtual-1".
std::string short_device(std::string_view device) {
  if (!device.starts_with('/')) return std::string(device);
  const std::string_view path = device.substr(0, device.find(' '));
  return std::string(path.substr(path.rfind('/') + 1));
}

/// The message without the device, the size and the origin of the memory, which the table and its heading show.
std::string general_reason(const Cell& cell) {
  std::string text = cell.refusal->message();
  const std::string device = std::string(cell.refusal->device()) + ": ";
  if (text.starts_with(device)) text.erase(0, device.size());
  const auto erase = [&](const std::string& part) {
    if (const auto at = text.find(part); at != std::string::npos) text.erase(at, part.size());
  };
  const Layout& layout = cell.layout;
  erase(fmt::format(": {}x{} {} {}", layout.size.width, layout.size.height, layout.format.name(),
                    layout.modifier.name()));
  if (cell.origin.empty()) return text;
  erase(" (" + cell.origin + ")");
  erase(": a buffer of " + cell.origin);
  return text;
}

struct Word {
  std::string text;
  fmt::text_style colour;
};

Word word_for(const Cell& cell, Notes& notes) {
  if (!cell.refusal && cell.note.empty()) return {"yes", good};
  if (!cell.refusal) {
    return {fmt::format("yes {}", static_cast<char>('a' + (notes.remarks.number_of(cell.note) - 1) % 26)), so_so};
  }
  const std::size_t number = notes.reasons.number_of(general_reason(cell), short_device(cell.refusal->device()));
  if (cell.refusal->code() == EBUSY) return {fmt::format("busy {}", number), so_so};
  return {fmt::format("no {}", number), bad};
}

/// Columns that are printed side by side.
struct Block {
  std::size_t first = 0;
  std::size_t count = 0;
};

class Table {
 public:
  Table(const Matrix& matrix, const Style& style) : matrix_(matrix), style_(style) {
    for (const Party& row : matrix.allocators) row_width_ = std::max(row_width_, row.label.size());
    for (std::size_t column = 0; column < matrix.users.size(); ++column) {
      const bool has_busy = std::ranges::any_of(matrix.cells, [&](const auto& row) { return is_busy(row[column]); });
      const std::size_t cell = std::string_view(has_busy ? "busy 10" : "no 10").size();
      widths_.push_back(std::max(matrix.users[column].label.size(), cell) + 2);
    }
    make_room_for_groups();
  }

  /// Notes are numbered in the order in which the cells refer to them.
  void print() {
    for (const Block& block : blocks()) {
      print_head(block);
      for (std::size_t row = 0; row < matrix_.allocators.size(); ++row) print_row(row, block);
      fmt::print("\n");
    }
  }
  [[nodiscard]] const Notes& notes() const { return notes_; }

 private:
  static bool is_busy(const Cell& cell) { return cell.refusal && cell.refusal->code() == EBUSY; }

  /// A group's name is printed above its columns, so the last column of a narrow group is widened.
  void make_room_for_groups() {
    for (std::size_t column = 0; column < widths_.size();) {
      const std::string& group = matrix_.users[column].group;
      const std::size_t width = group_width(column);
      while (column < widths_.size() && matrix_.users[column].group == group) ++column;
      if (width < group.size() + 2) widths_[column - 1] += group.size() + 2 - width;
    }
  }

  /// As many columns side by side as fit into the terminal; a new block begins with a new group if possible.
  [[nodiscard]] std::vector<Block> blocks() const {
    std::vector<Block> result;
    std::size_t used = style_.width;
    for (std::size_t column = 0; column < widths_.size(); ++column) {
      const bool begins_group = column == 0 || matrix_.users[column].group != matrix_.users[column - 1].group;
      const std::size_t needed = begins_group ? group_width(column) : widths_[column];
      if (used + needed > style_.width && (begins_group || used + widths_[column] > style_.width)) {
        result.push_back({column, 0});
        used = row_width_;
      }
      used += widths_[column];
      ++result.back().count;
    }
    return result;
  }
  [[nodiscard]] std::size_t group_width(std::size_t column) const {
    std::size_t width = 0;
    const std::string& group = matrix_.users[column].group;
    for (; column < widths_.size() && matrix_.users[column].group == group; ++column) width += widths_[column];
    return width;
  }

  void print_head(const Block& block) const {
    fmt::print("{:<{}}", "", row_width_);
    for (std::size_t i = block.first; i < block.first + block.count;) {
      const std::string& group = matrix_.users[i].group;
      std::size_t width = 0;
      for (; i < block.first + block.count && matrix_.users[i].group == group; ++i) width += widths_[i];
      if (i == block.first + block.count) width = std::min(width, group.size() + 2);  // no padding after the last one
      fmt::print("{}", coloured(fmt::format("  {:<{}}", group.substr(0, width - 2), width - 2), heading, style_));
    }
    fmt::print("\n{}", coloured(fmt::format("{:<{}}", "memory of", row_width_), heading, style_));
    for (std::size_t i = block.first; i < block.first + block.count; ++i) {
      const bool is_last = i + 1 == block.first + block.count;
      fmt::print("  {:<{}}", matrix_.users[i].label, is_last ? 0 : widths_[i] - 2);
    }
    fmt::print("\n");
  }

  void print_row(std::size_t row, const Block& block) {
    fmt::print("{:<{}}", matrix_.allocators[row].label, row_width_);
    for (std::size_t i = block.first; i < block.first + block.count; ++i) {
      const Word cell = word_for(matrix_.cells[row][i], notes_);
      const bool is_last = i + 1 == block.first + block.count;
      const std::size_t gap = is_last ? 0 : widths_[i] - 2 - std::min(widths_[i] - 2, cell.text.size());
      fmt::print("  {}{:{}}", coloured(cell.text, cell.colour, style_), "", gap);
    }
    fmt::print("\n");
  }

  const Matrix& matrix_;
  const Style& style_;
  Notes notes_;
  std::vector<std::size_t> widths_;
  std::size_t row_width_ = std::string_view("memory of").size();
};

/// What was tried in most cells of each column: "640x480 XR24 (camera, GBM), 1280x720 XR24 (display)".
std::string what_was_tried(const Matrix& matrix) {
  std::vector<std::pair<std::string, std::vector<std::string>>> tried;  // what was tried, with which groups
  for (std::size_t column = 0; column < matrix.users.size(); ++column) {
    std::map<std::string, int> counts;
    for (const auto& row : matrix.cells) {
      const Layout& layout = row[column].layout;
      if (layout.format.fourcc == 0) continue;
      ++counts[fmt::format("{}x{} {}", layout.size.width, layout.size.height, layout.format.code())];
    }
    if (counts.empty()) continue;
    const std::string most = std::ranges::max_element(counts, {}, [](const auto& one) { return one.second; })->first;
    auto found = std::ranges::find(tried, most, [](const auto& one) { return one.first; });
    if (found == tried.end()) found = tried.emplace(found, most, std::vector<std::string>());
    const std::string& group = matrix.users[column].group;
    if (std::ranges::find(found->second, group) == found->second.end()) found->second.push_back(group);
  }
  std::vector<std::string> words;
  for (const auto& [what, groups] : tried) words.push_back(fmt::format("{} ({})", what, joined(groups, ", ")));
  return joined(words, ", ");
}

void print_notes(const Notes& notes, const Style& style) {
  char letter = 'a';
  for (const std::string& text : notes.remarks.texts()) {
    fmt::print("{:>3}  ", letter++);
    print_wrapped(text, 5, 5, style);
  }
  std::size_t number = 1;
  for (const std::string& text : notes.reasons.texts()) {
    fmt::print("{:>3}  ", number++);
    print_wrapped(text, 5, 5, style);
  }
}

}  // namespace

void print_matrix(const Matrix& matrix, const Style& style) {
  print_heading("Who can allocate for whom", style);
  if (matrix.allocators.empty() || matrix.users.empty()) {
    fmt::print("  Nobody here: {}.\n", matrix.users.empty() ? "no device takes buffers" : "nothing allocates any");
    return;
  }
  Table table(matrix, style);
  fmt::print("  ");
  print_wrapped("Rows allocate, columns import; each cell was really tried, with " + what_was_tried(matrix) + ".", 2, 2,
                style);
  fmt::print("\n");
  table.print();
  print_notes(table.notes(), style);
}
