#ifndef PROJECT_H
#define PROJECT_H
#include <stddef.h>
struct node { struct node *next; char word[32]; unsigned count; };
struct node *list_find(struct node **head, const char *word);
unsigned hash_word(const char *word);
size_t split(const char *text, char words[][32], size_t room);
double one(double), two(double);
#endif
