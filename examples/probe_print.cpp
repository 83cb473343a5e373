#include "probe_print.hpp"

#include <fmt/color.h>
#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <utility>

using namespace dmaflow;

namespace {

// --- Text
// --------------------------------------------------------------------------------------------------------------

const auto heading = fmt::emphasis::bold | fmt::fg(fmt::terminal_color::cyan);
const auto good = fmt::fg(fmt::terminal_color::green);
const auto so_so = fmt::fg(fmt::terminal_color::yellow);
const auto bad = fmt::fg(fmt::terminal_color::red);
const auto faint = fmt::fg(fmt::terminal_color::bright_black);

std::string coloured(std::string_view text, const fmt::text_style& colour, const Style& style) {
  return style.has_colours ? fmt::format(colour, "{}", text) : std::string(text);
}

/// Prints @p text in lines of the terminal's width, all but the first behind @p indent spaces; the first continues a
/// line that has @p column characters already.
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

constexpr std::size_t name_width = 15;

/// "  /dev/video0          what it is"
void print_entry(std::string_view name, std::string_view what, const Style& style) {
  fmt::print("  {:<{}} ", name, name_width);
  print_wrapped(what, name_width + 3, name_width + 3, style);
}

/// A line under an entry.
void print_detail(std::string_view text, const Style& style) {
  fmt::print("{:{}}", "", name_width + 3);
  print_wrapped(text, name_width + 3, name_width + 5, style);
}

/// Nothing is printed where there is no error. The device's name, with which messages begin, stands before it already.
void print_error(const Json& device, const Style& style) {
  if (!device.contains("error")) return;
  fmt::print("{:{}}", "", name_width + 3);
  fmt::print("{} ", coloured("not usable:", bad, style));
  print_wrapped(device["error"]["message"].get<std::string>(), name_width + 15, name_width + 5, style);
}

std::string joined(const std::vector<std::string>& words, std::string_view between) {
  return fmt::format("{}", fmt::join(words, between));
}

/// The first few, unless all were asked for.
std::string abridged(const std::vector<std::string>& words, std::size_t most, const Style& style) {
  if (style.is_long || words.size() <= most + 1) return joined(words, " ");
  return fmt::format("{} and {} more", joined({words.begin(), words.begin() + static_cast<std::ptrdiff_t>(most)}, " "),
                     words.size() - most);
}

/// Things that say the same of themselves, in the order of the first of each.
class Groups {
 public:
  void add(std::string word, const std::string& what) {
    const auto found = std::ranges::find(groups_, what, &Group::what);
    Group& group = found == groups_.end() ? groups_.emplace_back(what) : *found;
    word.resize(word.find_last_not_of(' ') + 1);  // "R8  "
    if (std::ranges::find(group.words, word) == group.words.end()) group.words.push_back(std::move(word));
  }
  /// A line a group, behind @p before: "XR24 AR24: LINEAR".
  void print(const Style& style, const std::string& before = {}) const {
    for (const Group& group : groups_) {
      const std::string after = group.what.empty() ? "" : ": " + group.what;
      print_detail(before + abridged(group.words, 12, style) + after, style);
    }
  }

 private:
  struct Group {
    explicit Group(std::string text) : what(std::move(text)) {}
    std::string what;
    std::vector<std::string> words;
  };
  std::vector<Group> groups_;
};

// --- Devices
// -----------------------------------------------------------------------------------------------------------

std::string describe_heap(const Json& heap) {
  const auto word = [&](const char* key, const char* yes, const char* no) -> std::string {
    return heap[key].is_null() ? "" : heap[key].get<bool>() ? yes : no;
  };
  std::vector<std::string> words{word("contiguous", "contiguous", "scattered"), word("cached", "cached", "uncached"),
                                 word("protected", "out of the CPU's reach", "")};
  std::erase(words, "");
  return words.empty() ? "nothing known of its memory" : joined(words, ", ");
}

void print_memory(const Json& devices, const Style& style) {
  print_heading("Memory", style);
  for (const Json& heap : devices["heaps"]) {
    print_entry("heap:" + heap["name"].get<std::string>(), describe_heap(heap), style);
    print_error(heap, style);
  }
  if (devices["heaps"].empty()) {
    print_entry("no heaps:", "this kernel has no /dev/dma_heap (CONFIG_DMABUF_HEAPS_SYSTEM)", style);
  }
  const Json& udmabuf = devices["udmabuf"];
  const std::string limit =
      udmabuf.contains("limit_mb") ? fmt::format(", at most {} MB a buffer", udmabuf["limit_mb"].get<int>()) : "";
  print_entry("udmabuf", "scattered, cached" + limit, style);
  print_error(udmabuf, style);
}

/// "320x180 to 1920x1080, 1 to 60 fps" of what a format lists.
std::string describe_sizes(const Json& sizes) {
  if (sizes.empty()) return {};
  std::string text = sizes.front()["min"];
  if (sizes.size() > 1 || sizes.front()["min"] != sizes.front()["max"]) {
    text += " to " + sizes.back()["max"].get<std::string>();
  }
  if (sizes.size() > 1) text += fmt::format(" ({} sizes)", sizes.size());
  double slowest = 0;
  double fastest = 0;
  for (const Json& size : sizes) {
    if (!size.contains("fastest")) continue;
    fastest = std::max(fastest, size["fastest"].get<double>());
    slowest = slowest == 0 ? size["slowest"].get<double>() : std::min(slowest, size["slowest"].get<double>());
  }
  if (fastest > 0 && slowest == fastest) text += fmt::format(", {:.4g} fps", fastest);
  if (fastest > slowest) text += fmt::format(", {:.4g} to {:.4g} fps", slowest, fastest);
  return text;
}

std::string describe_ports(const Json& ports) {
  std::vector<std::string> words;
  for (const Json& port : ports) {
    std::string word = port["name"];
    if (port["current"].get<bool>()) word += " (current)";
    if (const std::string problem = port["problem"]; !problem.empty()) word += " (" + problem + ")";
    words.push_back(std::move(word));
  }
  return joined(words, ", ");
}

void print_video(const Json& device, const char* ports, const Style& style) {
  if (device.contains("card")) {
    print_entry(
        device["path"].get<std::string>(),
        fmt::format("{} ({}), {}-planar", device["card"].get<std::string>(), device["driver"].get<std::string>(),
                    device["multiplanar"].get<bool>() ? "multi" : "single"),
        style);
  } else {
    print_entry(device["path"].get<std::string>(), "", style);
  }
  print_error(device, style);
  if (!device.contains("formats")) return;
  if (device[ports].size() > 1) print_detail(fmt::format("{}: {}", ports, describe_ports(device[ports])), style);
  Groups formats;
  for (const Json& format : device["formats"]) {
    std::string what = format.contains("sizes") ? describe_sizes(format["sizes"]) : "";
    if (format["compressed"].get<bool>()) what += what.empty() ? "compressed" : ", compressed";
    if (!format["known"].get<bool>() && !format["compressed"].get<bool>())
      what += what.empty() ? "not known to dmaflow" : ", not known to dmaflow";
    formats.add(format["fourcc"], what);
  }
  formats.print(style);
}

void print_videos(const Json& devices, const Style& style) {
  print_heading("Cameras", style);
  for (const Json& camera : devices["cameras"]) print_video(camera, "inputs", style);
  if (devices["cameras"].empty()) {
    print_entry("no cameras:",
                "there is no /dev/videoN. Plugged in? In a container, are the devices passed in? "
                "(modprobe vivid makes a virtual one)",
                style);
  }
  if (devices["video_outputs"].empty()) return;
  print_heading("Video outputs", style);
  for (const Json& output : devices["video_outputs"]) print_video(output, "outputs", style);
}

std::string describe_modes(const Json& modes, const Style& style) {
  std::vector<std::string> words;
  for (const Json& mode : modes) {
    std::string word = fmt::format("{}{}@{:.4g}", mode["size"].get<std::string>(),
                                   mode["interlaced"].get<bool>() ? "i" : "", mode["hz"].get<double>());
    if (mode["preferred"].get<bool>()) word += " (preferred)";
    words.push_back(std::move(word));
  }
  return abridged(words, 5, style);
}

/// Planes with the same formats in one line: "overlay planes 35 38: XR24 AR24: LINEAR".
void print_planes(const Json& planes, const Style& style) {
  std::vector<std::pair<Json, std::vector<std::string>>> groups;
  for (const Json& plane : planes) {
    Json key = Json::array({plane["kind"], plane["formats"]});
    auto found = std::ranges::find(groups, key, [](const auto& group) -> const Json& { return group.first; });
    if (found == groups.end()) found = groups.emplace(groups.end(), std::move(key), std::vector<std::string>());
    found->second.push_back(std::to_string(plane["id"].get<unsigned>()));
  }
  for (const auto& [key, ids] : groups) {
    Groups formats;
    for (const Json& format : key[1]) {
      const auto modifiers = format["modifiers"].get<std::vector<std::string>>();
      formats.add(format["fourcc"], modifiers.empty() ? "no modifiers" : joined(modifiers, " "));
    }
    const std::string which = abridged(ids, 4, style);
    formats.print(style, fmt::format("{} plane{} {}: ", key[0].get<std::string>(), ids.size() > 1 ? "s" : "", which));
  }
}

void print_cards(const Json& devices, const Style& style) {
  print_heading("Displays", style);
  for (const Json& card : devices["cards"]) {
    const bool is_display = !card["connectors"].empty() || card["driver"].get<std::string>().empty();
    print_entry(card["path"].get<std::string>(),
                card["driver"].get<std::string>() + (is_display ? "" : ", without a display"), style);
    if (is_display) print_error(card, style);
    for (const Json& connector : card["connectors"]) {
      print_detail(fmt::format("{} {}: {}", connector["name"].get<std::string>(),
                               connector["connection"].get<std::string>(), describe_modes(connector["modes"], style)),
                   style);
    }
    print_planes(card["planes"], style);
  }
  if (devices["cards"].empty()) {
    print_entry("no displays:",
                "there is no /dev/dri/cardN. In a container, are the devices passed in? "
                "(modprobe vkms makes a virtual one)",
                style);
  }
}

void print_gbm(const Json& devices, const Style& style) {
  if (devices["gbm"].empty()) return;
  print_heading("GBM", style);
  Json before;  // one backend serves most nodes, and says the same of all
  for (const Json& node : devices["gbm"]) {
    const Json list = node.value("formats", Json::array());
    const bool is_same = !list.empty() && list == before;
    print_entry(node["path"].get<std::string>(), node.value("driver", "") + (is_same ? ", the same formats" : ""),
                style);
    print_error(node, style);
    if (is_same) continue;
    before = list;
    Groups formats;
    for (const Json& format : list) {
      std::vector<std::string> uses;
      for (const char* use : {"scanout", "render", "linear"}) {
        if (format[use].get<bool>()) uses.emplace_back(use);
      }
      formats.add(format["fourcc"], uses.empty() ? "" : "for " + joined(uses, ", "));
    }
    formats.print(style);
  }
}

/// "LINEAR 0x0100000000000001 (import only)".
std::string describe_modifiers(const Json& modifiers) {
  std::vector<std::string> words;
  for (const Json& one : modifiers) {
    const bool in = one["importable"];
    const bool out = one["exportable"];
    words.push_back(one["modifier"].get<std::string>() + (in && out ? ""
                                                          : in      ? " (import only)"
                                                          : out     ? " (export only)"
                                                                    : " (not shared)"));
  }
  return joined(words, " ");
}

void print_vulkan(const Json& devices, const Style& style) {
  print_heading("Vulkan", style);
  if (devices.contains("vulkan_error")) {
    print_entry("no GPUs:", devices["vulkan_error"]["message"].get<std::string>(), style);
  }
  for (const Json& device : devices["vulkan"]) {
    const std::string node = device.value("node", "");
    fmt::print("  {}{}\n", device["name"].get<std::string>(), node.empty() ? "" : ", " + node);
    print_error(device, style);
    Groups formats;
    for (const Json& format : device.value("formats", Json::array())) {
      formats.add(format["fourcc"], describe_modifiers(format["modifiers"]));
    }
    formats.print(style);
  }
}

// --- The matrix
// --------------------------------------------------------------------------------------------------------

/// What the table's cells refer to: each text once, in the order of its first use, with all devices that gave it.
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

/// The message without the device, the size and whose memory it was: these stand in the table and above it.
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

/// Columns of one group that stand side by side.
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
  }

  /// Notes are numbered as they are come across.
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

  /// As many columns side by side as the terminal takes; a new block begins with a new group where that is possible.
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
      if (i == block.first + block.count) width = std::min(width, group.size() + 2);  // nothing behind the last
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
  std::vector<std::pair<std::string, std::vector<std::string>>> tried;  // what, with which groups
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

void print_devices(const Json& devices, const Style& style) {
  print_memory(devices, style);
  print_videos(devices, style);
  print_cards(devices, style);
  print_gbm(devices, style);
  print_vulkan(devices, style);
}

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
