/* tree.c - the nodes of a store, drawn.
 *
 *     ○ 1  133 tokens
 *     ● 2  158 tokens  agent
 *     ├─○ 3  180 tokens
 *     │ ● 4  192 tokens  agent/a
 *     └─● 6  192 tokens  agent/b
 *
 * A node with one child is followed by it in the same column; the children of a fork stand one
 * column further in. ● is the head of a session, ○ a node on the way, and "(replay)" marks one
 * without a kept state. The walk keeps its own stack: a history may be deeper than the C stack. */
#include "print.h"

#include <inttypes.h>
#include <stdlib.h>

#define NONE SIZE_MAX

typedef struct branch {
    size_t node;  /* an index into the list */
    size_t depth; /* columns in front of it */
} branch;

typedef struct links {
    size_t child;   /* the first child, or NONE */
    size_t sibling; /* the next child of the same parent, or NONE */
} links;

typedef struct tree {
    const tarn_node_entry *nodes;
    size_t *by_id; /* indices into nodes, in the order of their ids */
    links *links;
    branch *stack; /* where the walk goes on; never longer than the list */
    bool *more;    /* for each column: another branch of that fork follows further down */
} tree;

static int compare_ids(const void *a, const void *b, void *nodes)
{
    const tarn_node_entry *list = nodes;
    uint64_t x = list[*(const size_t *)a].node, y = list[*(const size_t *)b].node;
    return (x > y) - (x < y);
}

static size_t find_node(const tree *t, size_t n_nodes, uint64_t id)
{
    size_t low = 0, high = n_nodes;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (t->nodes[t->by_id[middle]].node < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n_nodes && t->nodes[t->by_id[low]].node == id ? t->by_id[low] : NONE;
}

/* Links every node to its parent and returns the first root. From the last node to the first, so
 * that children come out oldest first. */
static size_t link_nodes(tree *t, size_t n_nodes)
{
    size_t root = NONE;
    for (size_t i = 0; i < n_nodes; i++) {
        t->by_id[i] = i;
        t->links[i] = (links){NONE, NONE};
    }
    qsort_r(t->by_id, n_nodes, sizeof *t->by_id, compare_ids, (void *)(uintptr_t)t->nodes);
    for (size_t i = n_nodes; i-- > 0;) {
        size_t parent = find_node(t, n_nodes, t->nodes[i].parent);
        size_t *list = parent == NONE ? &root : &t->links[parent].child;
        t->links[i].sibling = *list;
        *list = i;
    }
    return root;
}

static void draw_node(const tree *t, size_t index, size_t depth, bool begins_branch)
{
    const tarn_node_entry *node = &t->nodes[index];
    for (size_t i = 0; i < depth; i++) {
        bool fork = begins_branch && i + 1 == depth;
        fputs(t->more[i] ? (fork ? "├─" : "│ ") : (fork ? "└─" : "  "), stdout);
    }
    printf("%s %" PRIu64 "  %" PRIu64 " tokens", node->n_sessions ? "●" : "○", node->node,
           node->position);
    for (size_t i = 0; i < node->n_sessions; i++)
        printf("%s%s", i ? ", " : "  ", node->sessions[i]);
    printf("%s%s\n", node->pinned ? "  (pinned)" : "", node->has_state ? "" : "  (replay)");
}

static void draw_from(tree *t, size_t root)
{
    size_t n_stack = 0;
    t->stack[n_stack++] = (branch){root, 0};
    while (n_stack > 0) {
        branch b = t->stack[--n_stack];
        if (b.depth > 0) {
            size_t sibling = t->links[b.node].sibling;
            t->more[b.depth - 1] = sibling != NONE;
            if (sibling != NONE)
                t->stack[n_stack++] = (branch){sibling, b.depth};
        }
        draw_node(t, b.node, b.depth, true);
        size_t child = t->links[b.node].child;
        for (; child != NONE && t->links[child].sibling == NONE; child = t->links[child].child)
            draw_node(t, child, b.depth, false);
        if (child != NONE)
            t->stack[n_stack++] = (branch){child, b.depth + 1};
    }
}

bool print_tree(const tarn_node_entry *nodes, size_t n_nodes)
{
    tree t = {.nodes = nodes,
              .by_id = malloc((n_nodes + 1) * sizeof *t.by_id),
              .links = malloc((n_nodes + 1) * sizeof *t.links),
              .stack = malloc((n_nodes + 1) * sizeof *t.stack),
              .more = malloc((n_nodes + 1) * sizeof *t.more)};
    bool ok = t.by_id && t.links && t.stack && t.more;
    if (ok) {
        for (size_t root = link_nodes(&t, n_nodes); root != NONE; root = t.links[root].sibling)
            draw_from(&t, root);
    }
    free(t.by_id);
    free(t.links);
    free(t.stack);
    free(t.more);
    return ok;
}

void print_dot(const tarn_node_entry *nodes, size_t n_nodes)
{
    printf("digraph tarn {\n    rankdir=LR;\n    node [shape=box];\n");
    for (size_t i = 0; i < n_nodes; i++) {
        printf("    n%" PRIu64 " [label=\"%" PRIu64 " @%" PRIu64, nodes[i].node, nodes[i].node,
               nodes[i].position);
        for (size_t k = 0; k < nodes[i].n_sessions; k++) {
            printf("\\n");
            for (const char *c = nodes[i].sessions[k]; *c; c++)
                printf("%s%c", *c == '"' || *c == '\\' ? "\\" : "", *c);
        }
        printf("\"];\n");
        if (nodes[i].parent)
            printf("    n%" PRIu64 " -> n%" PRIu64 ";\n", nodes[i].parent, nodes[i].node);
    }
    printf("}\n");
}
